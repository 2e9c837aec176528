import hashlib

import numpy as np

from nilr.data.digests import bytes_sha256, combined_digest, content_digest, equal_pairs, image_digests

A, B = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
# printf abc | sha256sum (FIPS 180-2, appendix B.1)
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_image_is_known_by_the_sha256_of_its_bytes() -> None:
    image = np.frombuffer(b"abc", np.uint8).reshape(1, 1, 3)
    assert [digest.hex() for digest in image_digests(np.stack([image, image]))] == [ABC, ABC]
    assert bytes_sha256([image]) == ABC


def test_an_array_is_hashed_in_c_order_whatever_its_memory_order() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert (
        bytes_sha256([np.asfortranarray(array)])
        == bytes_sha256(list(array))
        == hashlib.sha256(array.tobytes()).hexdigest()
    )


def test_a_combined_digest_does_not_depend_on_order() -> None:
    assert combined_digest([A, B]) == combined_digest([B, A]) == hashlib.sha256(min(A, B) + max(A, B)).digest()


def test_the_content_digest_says_which_split_is_which() -> None:
    assert content_digest({"test": B, "train": A}) == hashlib.sha256(b"train\0" + A + b"test\0" + B).hexdigest()
    assert content_digest({"train": A}) != content_digest({"val": A})


def test_pairs_of_equal_images_are_all_given_while_they_are_few() -> None:
    images = [(A, ("train", "b")), (B, ("train", "c")), (A, ("val", "a")), (A, ("train", "a"))]
    one, two, three = ("train", "a"), ("train", "b"), ("val", "a")
    assert equal_pairs(images) == [(one, two), (one, three), (two, three)]


def test_thousands_of_blank_images_are_each_paired_with_the_first_alone() -> None:
    pairs = equal_pairs((A, ("train", f"{i:05d}")) for i in range(60_000))
    assert len(pairs) == 59_999
    assert {first for first, _ in pairs} == {("train", "00000")}
