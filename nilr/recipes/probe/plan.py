"""What a probe measures of each model, and the layout of its result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nilr.config.base import PROTOCOLS
from nilr.config.evaluation import ProbeSettings
from nilr.errors import EpisodeError, UnknownNameError, UsageError
from nilr.meta.model import Model
from nilr.models.parameters import layer
from nilr.probes.conditions import META_INIT, Quantity, layer_of
from nilr.probes.edits import LEARNED, rates_of_part
from nilr.probes.geometry import MIN_IMAGES
from nilr.probes.neighbours import RULES
from nilr.probes.readings import LinearAccuracy
from nilr.recipes.common.episodes import edit_names, inner_steps, split_commas
from nilr.recipes.probe.controls import RAW_PIXELS, UNTRAINED, with_bodies
from nilr.results.gate import parse_limits
from nilr.results.probe import ModelProbe
from nilr.sections import SECTIONS
from nilr.sections.section import Request, Section
from nilr.sections.values import Values


@dataclass(frozen=True)
class ProbePlan:
    """What a probe measures of one model or control."""

    protocols: Mapping[str, Quantity]  # the main accuracy, by protocol
    sections: Mapping[Section[Any], Mapping[str, Any]]  # the plan of each section; empty if it is not requested

    @property
    def before(self) -> Quantity:
        """The main accuracy before adaptation."""
        return self.protocols["meta-init"]

    def layout(self, function: Callable[[Quantity], Any]) -> dict[str, Any]:
        """Return the values of a function of every quantity, in the layout of the result."""
        sections = {section.field: entries for section, entries in self.sections.items() if entries}
        return {name: _mapped(tree, function) for name, tree in [*self.protocols.items(), *sections.items()]}

    def quantities(self, *, all_classes: bool | None = None) -> list[Quantity]:
        """Return all quantities, or those of all classes of a split, or those of episodes, each once.

        What differences refer to is always among them.
        """
        found: dict[Quantity, None] = {}
        self.layout(lambda quantity: found.setdefault(quantity))
        return [q for q in found if all_classes in (None, isinstance(q.reading, LinearAccuracy))]

    def of_control(self, *, layers: bool) -> "ProbePlan":
        """Return what a control, which does not adapt, can give: accuracies, and those of layers if it has layers."""
        sections = {}
        for section, entries in self.sections.items():
            kept = {
                name: {p: q for p, q in row.items() if q.condition == META_INIT and (layers or not layer_of(q.reading))}
                for name, row in entries.items()
                if section.of_controls
            }
            sections[section] = {name: row for name, row in kept.items() if row}
        return ProbePlan({"meta-init": self.before}, sections)

    def summarise(self, values: Values) -> ModelProbe:
        """Return means with intervals, and differences to meta-init and to the learned rates."""
        protocols = {protocol: values.accuracy(quantity) for protocol, quantity in self.protocols.items()}
        sections = {
            section.field: {name: section.build(entry, values) for name, entry in entries.items()}
            for section, entries in self.sections.items()
        }
        metrics = ModelProbe.model_validate(protocols | sections)
        return with_bodies(metrics, values) if values.bodies else metrics


def _mapped(tree: Any, function: Callable[[Quantity], Any]) -> Any:  # noqa: ANN401 - as deep as the section is
    if isinstance(tree, Quantity):
        return function(tree)
    return {name: _mapped(branch, function) for name, branch in tree.items()}


def plan_model(request: Request) -> ProbePlan:
    """Return what the request measures."""
    return ProbePlan(request.accuracies(), {section: section.entries(request) for section in SECTIONS})


def plan_all(settings: ProbeSettings, models: Mapping[str, Model], n_way: int) -> dict[str, ProbePlan]:
    """Return what is measured of the models, and of the controls if they are requested, by name."""
    plans = {name: plan_model(resolve_request(settings, model, n_way)) for name, model in models.items()}
    return plans | plan_controls(next(iter(plans.values()))) if settings.controls else plans


def plan_controls(plan: ProbePlan) -> dict[str, ProbePlan]:
    """Return what is measured of the controls, by name, with the plan of a model."""
    return {UNTRAINED: plan.of_control(layers=True), RAW_PIXELS: plan.of_control(layers=False)}


def resolve_request(settings: ProbeSettings, model: Model, n_way: int) -> Request:
    """Resolve a probe's settings for one model; UnknownNameError if --layers names a layer that it does not have."""
    known = model.learner.body.layers
    names = [_known("layer", name, ["all", *known]) for name in split_commas(settings.layers)]
    by_layer = settings.similarity or settings.directions or settings.transfer
    every_layer = "all" in names or (by_layer and not names)
    rates = rates_of_part(model.inner_lr, model.params, split_commas(settings.adapt_part))
    return Request(
        settings=settings,
        edits=tuple(dict.fromkeys([*edit_names(settings.rates), LEARNED])),
        rules=requested_rules(settings),
        layers=tuple(name for name in known if every_layer or name in names),
        moved=tuple(dict.fromkeys(layer(name) for name in rates)),
        n_way=n_way,
        inner_steps=inner_steps(settings, model),
    )


def requested_rules(settings: ProbeSettings) -> tuple[str, ...]:
    """Return the neighbour rules that --neighbours names, the main one first; UnknownNameError if one is unknown."""
    return tuple(_known("neighbour rule", name, RULES) for name in split_commas(settings.neighbours))


def check_settings(settings: ProbeSettings) -> None:
    """Check what can be checked before a model is opened; UsageError if settings contradict, or a name is unknown."""
    edit_names(settings.rates)
    requested_rules(settings)
    evaluated = PROTOCOLS if settings.protocol == "all" else (META_INIT.protocol, settings.protocol)
    for limit in parse_limits(settings.fail_below):
        if limit.protocol not in evaluated:
            what = f"--fail-below {limit.protocol}.{limit.figure}: --protocol {settings.protocol} does not evaluate it"
            raise UsageError(what, hint="use --protocol all")
    if settings.until_ci is not None and settings.protocol == META_INIT.protocol:
        raise UsageError("--until-ci needs differences, and --protocol meta-init has none", hint="omit --protocol")
    explicit = "n_episodes" in settings.model_fields_set
    if settings.until_ci is not None and explicit and settings.n_episodes > settings.max_episodes:
        what = f"--n-episodes {settings.n_episodes} is above --max-episodes {settings.max_episodes}"
        raise UsageError(what, hint="lower one, or raise the other")
    if settings.query_batch != "all":
        for flag in ("similarity", "geometry", "harm"):
            if getattr(settings, flag):
                raise UsageError(f"--{flag} compares all queries of an episode", hint="omit --query-batch")
        if settings.universality:
            raise UsageError("--universality evaluates all images in one batch", hint="omit --query-batch")
    for section in SECTIONS:
        section.check(settings)
    if settings.data_b is not None and (settings.shared_classes or settings.task_b == "same-classes"):
        flag = "--shared-classes" if settings.shared_classes else "--task-b same-classes"
        raise UsageError(f"{flag} needs one pack: the classes of --data-b differ", hint=f"omit {flag} or --data-b")


def check_size(settings: ProbeSettings, n_query: int) -> None:
    """Check that episodes are large enough; EpisodeError if a section needs more query images."""
    if settings.geometry and n_query < MIN_IMAGES:
        raise EpisodeError(
            f"--geometry needs {MIN_IMAGES} query images per class; an episode has {n_query}", hint="raise --n-query"
        )


def _known(kind: str, name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return name
