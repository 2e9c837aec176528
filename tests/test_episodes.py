from collections.abc import Callable

import pytest
import torch

from nilr.episodes import EpisodeSampler, PackedImages, _mix, stream_seed
from nilr.errors import EpisodeError


def labelled_images(class_sizes: tuple[int, ...]) -> PackedImages:
    """Return 2 px images whose three channels say class, image in class, and 255."""
    rows = [(c, i, 255) for c, n in enumerate(class_sizes) for i in range(n)]
    pixels = torch.tensor(rows, dtype=torch.uint8)[:, None, None, :].expand(-1, 2, 2, -1)
    return PackedImages(pixels.contiguous(), class_sizes)


def sampler(**changes: object) -> EpisodeSampler:
    given: dict[str, object] = {"n_way": 5, "n_shot": 2, "n_query": 3, "seed": 0, "stream": "test"}
    images = changes.pop("images", labelled_images((20,) * 12))
    return EpisodeSampler(images, **(given | changes))  # type: ignore[arg-type]


def test_the_hash_is_splitmix64() -> None:
    # first outputs of SplitMix64 with seed 1234567, as published with its reference code
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    golden = 0x9E3779B97F4A7C15
    for i, expected in enumerate(published):
        state = (1234567 + i * golden) % 2**64
        signed = state - 2**64 if state >= 2**63 else state
        assert int(_mix(torch.tensor(signed))) % 2**64 == expected


def test_an_episode_is_grouped_by_class_and_scaled_to_one() -> None:
    episode = sampler().draw([7])[0]
    assert episode.support_x.shape == (10, 3, 2, 2)
    assert episode.query_x.shape == (15, 3, 2, 2)
    assert episode.support_y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert episode.query_y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert episode.support_x[:, 2].unique().tolist() == [1.0]


def test_support_and_query_of_a_class_show_that_class_and_share_no_image() -> None:
    batch = sampler().draw(range(50))
    for i in range(50):
        episode = batch[i]
        seen = set()
        for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
            pixels = (x[:, :2, 0, 0] * 255).round().int()
            classes = {int(label): {int(c) for c in pixels[y == label, 0]} for label in y.unique()}
            assert all(len(found) == 1 for found in classes.values())
            seen |= {tuple(pair.tolist()) for pair in pixels}
        assert len(seen) == 25


def test_episode_i_does_not_depend_on_the_batch_it_is_drawn_in() -> None:
    alone = sampler().draw([17])[0]
    among = sampler().draw([3, 99, 17, 4])[2]
    assert torch.equal(alone.support_x, among.support_x)
    assert torch.equal(alone.query_x, among.query_x)


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "val"}])
def test_another_seed_or_stream_gives_other_episodes(change: dict[str, object]) -> None:
    classes, _ = sampler().choose(range(20))
    others, _ = sampler(**change).choose(range(20))
    assert not torch.equal(classes, others)


def test_classes_and_images_are_drawn_evenly() -> None:
    # 4,000 episodes of 5 of 12 classes: each class is expected 1666.7 times, standard deviation below 32
    classes, images = sampler().choose(range(4000))
    assert torch.bincount(classes.flatten(), minlength=12).sub(1666.7).abs().max() < 5 * 32
    # 100,000 draws of 240 images: each is expected 416.7 times, standard deviation below 21
    assert torch.bincount(images.flatten(), minlength=240).sub(416.7).abs().max() < 5 * 21


def test_small_classes_give_only_images_they_have() -> None:
    sizes = (5, 9, 6, 30, 5, 7)
    _, images = sampler(images=labelled_images(sizes)).choose(range(300))
    starts = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
    owner = (images[..., None] >= starts).sum(-1) - 1
    assert (owner == owner[..., :1]).all()
    assert (images - starts[owner] < torch.tensor(sizes)[owner]).all()


def test_classes_to_avoid_are_never_drawn() -> None:
    judged, _ = sampler().choose(range(500))
    others, _ = sampler(stream="test/task-a").choose(range(500), avoid=judged)
    assert not (judged[:, :, None] == others[:, None, :]).any()


def test_the_draws_are_those_of_the_first_version() -> None:
    # noted from the code before classes could be given: a change here would change every published figure
    given = {"n_way": 3, "n_query": 1, "seed": 5}
    classes, images = sampler(**given).choose([0, 7])
    assert classes.tolist() == [[3, 8, 1], [0, 9, 7]]
    assert images[0].tolist() == [[63, 73, 60], [177, 165, 167], [39, 31, 27]]
    others, images = sampler(**given, stream="test/task-a").choose([0, 7], avoid=classes)
    assert others.tolist() == [[7, 0, 5], [1, 5, 11]]
    assert images[1].tolist() == [[28, 35, 29], [109, 118, 111], [228, 239, 230]]


def test_new_images_of_given_classes_are_of_those_classes_and_none_of_the_old_ones() -> None:
    # every class has exactly the 10 images that two tasks of 5 need
    both = sampler(images=labelled_images((10,) * 12))
    classes, old = both.choose(range(200))
    new = sampler(images=labelled_images((10,) * 12), stream="test/task-a").choose_images(
        range(200), classes, avoid=old
    )
    assert torch.equal(new // 10, classes[..., None].expand_as(new))
    drawn = torch.cat([old, new], -1).sort(-1).values
    assert torch.equal(drawn % 10, torch.arange(10).expand_as(drawn))


def test_new_images_are_drawn_evenly() -> None:
    classes, old = sampler().choose(range(4000))
    new = sampler(stream="test/task-a").choose_images(range(4000), classes, avoid=old)
    # 100,000 draws of 240 images: each is expected 416.7 times, standard deviation below 21
    assert torch.bincount(new.flatten(), minlength=240).sub(416.7).abs().max() < 5 * 21


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: sampler(n_way=13), ("13", "12")),
        (lambda: sampler(n_shot=15, n_query=6), ("21", "15", "6", "20")),
        (lambda: sampler(n_way=7).choose([0], avoid=torch.arange(7)[None]), ("14", "12")),
        (
            lambda: sampler().choose_images(
                [0], torch.zeros(1, 1, dtype=torch.int64), avoid=torch.arange(16)[None, None]
            ),
            ("21", "20"),
        ),
    ],
)
def test_too_few_classes_or_images_are_named_with_both_numbers(
    make: Callable[[], object], numbers: tuple[str, ...]
) -> None:
    with pytest.raises(EpisodeError) as caught:
        make()
    assert all(number in caught.value.message for number in numbers)
    assert caught.value.hint


def test_streams_have_seeds_of_their_own() -> None:
    seeds = {stream_seed(seed, stream) for seed in range(10) for stream in ("weights", "rates", "train")}
    assert len(seeds) == 30
    assert all(0 <= seed < 2**63 for seed in seeds)
