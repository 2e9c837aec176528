"""The state dicts that nilr reads and writes, as tables of names. Imports no torch.

A template has `{i}`, the number of a block from 1, `{z}`, its number from 0, and `{j}`, the number of a unit from 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nilr.models.stages import Stage, Unit

RAW = "images in [0, 1]"
IMAGENET = "images that are normalised by the mean 0.485,0.456,0.406 and the deviation 0.229,0.224,0.225"


class Names(NamedTuple):
    """The prefixes of a convolution and of the batch normalisation that follows it."""

    conv: str
    norm: str


@dataclass(frozen=True)
class Layout:
    """The names of one network in one library, and what the inner loop of that library does with it."""

    format: str  # of --format; several networks of a library share it
    arch: str  # nilr's body that computes the same function
    source: str  # the code that the names come from
    units: Mapping[str, Names]  # by kind of unit: `block`, or in a residual block `unit` and `shortcut`
    head: str  # the prefix of the linear classifier
    assumed: str  # what the code does and the file cannot show
    inputs: str = RAW  # the images that the library's own training uses
    head_weight: str = "weight"
    moves_norm: bool = True  # whether the library's inner loop moves scale and shift of batch normalisation
    norm_first: bool = False  # whether a unit's normalisation is registered before its convolution
    aliases: Mapping[str, Names] = field(default_factory=dict)  # second names of the same tensors
    pools_5x5: bool = False  # whether the mean is over 5x5 positions, and not over all of them
    buffers: bool = True  # whether normalisation has running statistics
    conv_bias: bool = True  # whether convolutions have a bias

    def names(self, unit: Unit) -> Names:
        """Return the prefixes of a unit, which is named as in `nilr.models.stages`."""
        return self._filled(self.units[_key(unit)], unit)

    def second_names(self, unit: Unit) -> Names | None:
        """Return the prefixes of the second names of a unit's tensors; None if they have no second names."""
        found = self.aliases.get(_key(unit))
        return None if found is None else self._filled(found, unit)

    def _filled(self, names: Names, unit: Unit) -> Names:
        block, _, part = unit.name.partition(".")
        number = int(block.removeprefix("block"))
        values = {"i": number, "z": number - 1, "j": part.removeprefix("unit")}
        return Names(*(name.format(**values) for name in names))


def _key(unit: Unit) -> str:
    """Return the kind of a unit: `block`, or in a residual block `unit` or `shortcut`."""
    part = unit.name.partition(".")[2]
    return "shortcut" if part == "shortcut" else "unit" if part else "block"


_FOUR = (
    "convolutions with stride 1 and padding 1, then batch normalisation, ReLU and 2x2 max-pool; features are flattened"
)
_SIX = _FOUR.replace(";", ", in the last two without max-pool;")
_RESNET = "leaky ReLU 0.1, 2x2 max-pool after the sum, no DropBlock, the mean over positions"

_L2L = "https://github.com/learnables/learn2learn/blob/db5cee3/learn2learn/vision/models"
_DELEU = "https://github.com/tristandeleu/pytorch-maml/blob/4410427/maml/model.py"
_TORCHMETA = "https://github.com/tristandeleu/pytorch-meta/blob/master/examples/maml/model.py"
_ANTONIOU = (
    "https://github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch/blob/8696470/meta_neural_network_architectures.py"
)
_LIBFEWSHOT = "https://github.com/RL-VIG/LibFewShot/blob/067efb7/core/model/backbone"
_CLOSER = "https://github.com/wyharveychen/CloserLookFewShot/blob/master/backbone.py"
_PROTONET = "https://github.com/yinboc/prototypical-network-pytorch/blob/master/convnet.py"
_FEAT = "https://github.com/Sha-Lab/FEAT/blob/master/model/networks/res12.py"
_RFS = "https://github.com/WangYueFt/rfs/blob/master/models/resnet.py"


def _blocks(conv: str, norm: str) -> dict[str, Names]:
    return {"block": Names(conv, norm)}


def _residual(prefix: str) -> dict[str, Names]:
    return {
        "unit": Names(f"{prefix}layer{{i}}.0.conv{{j}}", f"{prefix}layer{{i}}.0.bn{{j}}"),
        "shortcut": Names(f"{prefix}layer{{i}}.0.downsample.0", f"{prefix}layer{{i}}.0.downsample.1"),
    }


_OWN = {
    "block": Names("body.block{i}.conv", "body.block{i}.norm"),
    "unit": Names("body.block{i}.unit{j}.conv", "body.block{i}.unit{j}.norm"),
    "shortcut": Names("body.block{i}.shortcut.conv", "body.block{i}.shortcut.norm"),
}


LAYOUTS = (
    Layout("learn2learn", "conv4", f"{_L2L}/cnn4.py", _blocks("features.{z}.conv", "features.{z}.normalize"),
           "classifier", _FOUR, inputs="images in [0, 255], or in [0, 1] with data_augmentation='normalize'",
           norm_first=True),
    Layout("pytorch-maml", "conv4", _DELEU, _blocks("features.layer{i}.conv", "features.layer{i}.norm"),
           "classifier", _FOUR, moves_norm=False, buffers=False),
    Layout("torchmeta", "conv4", _TORCHMETA, _blocks("features.{z}.0", "features.{z}.1"),
           "classifier", _FOUR, buffers=False),
    Layout("how-to-train-your-maml", "conv4-leaky", _ANTONIOU,
           _blocks("classifier.layer_dict.conv{z}.conv", "classifier.layer_dict.conv{z}.norm_layer"),
           "classifier.layer_dict.linear", _FOUR.replace("ReLU", "leaky ReLU 0.01"), inputs=IMAGENET,
           head_weight="weights", moves_norm=False),
    Layout("libfewshot", "conv4", f"{_LIBFEWSHOT}/conv_four.py",
           _blocks("emb_func.layer{i}.0", "emb_func.layer{i}.1"),
           "classifier.layers.0", _FOUR, inputs=IMAGENET),
    Layout("closer-look", "conv4", _CLOSER, _blocks("feature.trunk.{z}.C", "feature.trunk.{z}.BN"),
           "classifier", _FOUR, inputs=IMAGENET,
           aliases=_blocks("feature.trunk.{z}.trunk.0", "feature.trunk.{z}.trunk.1")),
    Layout("plain", "conv4", f"{_LIBFEWSHOT}/conv_four.py", _blocks("layer{i}.0", "layer{i}.1"),
           "classifier", _FOUR),
    Layout("plain", "conv4", _PROTONET, _blocks("encoder.{z}.0", "encoder.{z}.1"),
           "classifier", _FOUR),
    Layout("closer-look", "conv6", _CLOSER, _blocks("feature.trunk.{z}.C", "feature.trunk.{z}.BN"),
           "classifier", _SIX, inputs=IMAGENET,
           aliases=_blocks("feature.trunk.{z}.trunk.0", "feature.trunk.{z}.trunk.1")),
    Layout("learn2learn", "resnet12", f"{_L2L}/resnet12.py", _residual("features."), "classifier", _RESNET,
           inputs="images in [0, 255], or in [0, 1] with data_augmentation='normalize'", pools_5x5=True,
           conv_bias=False),
    Layout("libfewshot", "resnet12", f"{_LIBFEWSHOT}/resnet_12.py", _residual("emb_func."), "classifier.layers.0",
           _RESNET, inputs=IMAGENET, pools_5x5=True, conv_bias=False),
    Layout("plain", "resnet12", _FEAT, _residual("encoder."), "classifier", _RESNET, pools_5x5=True, conv_bias=False),
    Layout("plain", "resnet12", _RFS, _residual(""), "classifier", _RESNET, conv_bias=False),
    *(Layout("nilr", arch, "`models export`", _OWN, "head", assumed, buffers=False, conv_bias=False)
      for arch, assumed in (("conv4", _FOUR), ("conv6", _SIX),
                            ("resnet12", _RESNET))),
)  # fmt: skip

FORMATS = tuple(dict.fromkeys(layout.format for layout in LAYOUTS))

# The inner rates beside a network: per parameter in order (learn2learn), per step by name (Antoniou et al.), or by
# nilr's names.
OWN_RATES = "inner_lr."
META_SGD_RATES = "lrs."
LSLR_RATES = "inner_loop_optimizer.names_learning_rates_dict."
LSLR_NETWORK = "classifier."  # what LSLR's names lack

# Networks that compute another function than any body of nilr, by a tensor that only they have.
REFUSED = {
    "features.1.0.conv.weight": "learn2learn's OmniglotCNN has strided convolutions of one channel and a mean",
    "base.0.conv.weight": "learn2learn's OmniglotCNN has strided convolutions of one channel and a mean",
    "encoder.encoder.0.0.weight": "FEAT's ConvNet takes the largest value over positions as its features",
    "emb_func.block1.0.weight": "R2D2's features join two blocks",
    "feature.trunk.4.C1.weight": "Closer Look's ResNets have strides, where nilr has max-pool",
}


def find_layout(form: str, arch: str) -> Layout | None:
    """Return the layout of a body in a format; None if the format has none."""
    return next((layout for layout in LAYOUTS if (layout.format, layout.arch) == (form, arch)), None)


def units(stages: tuple[Stage, ...]) -> Iterator[Unit]:
    """Yield the units of a body in the order in which other libraries register them."""
    for stage in stages:
        yield from (stage,) if isinstance(stage, Unit) else (*stage.units, stage.shortcut)
