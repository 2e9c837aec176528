"""Lines that several dry runs show."""

from nilr.results.records import DataUsed
from nilr.words import counted


def describe_data(data: DataUsed) -> str:
    """Return a pack, its split, its images and its digest in one line."""
    return ", ".join(filter(None, (data.name, data.split, f"{data.image_size} px", f"digest {data.digest[:12]}")))


def describe_episodes(n_way: int, n_shot: int, n_query: int) -> str:
    """Return the size of an episode in one line."""
    return f"{n_way}-way {n_shot}-shot, {counted(n_query, 'query', 'queries')} per class"
