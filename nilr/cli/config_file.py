"""Settings from a TOML file, and to one: `--config` and `--save-config`."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr import __version__
from nilr.config.base import Settings
from nilr.errors import EMPTY_PATH, StoreError, UsageError, did_you_mean, invalid_value
from nilr.files import expand_home


def read_config(path: str, settings: type[Settings], command: str) -> dict[str, Any]:
    """Return the settings in a TOML file, each of which is valid.

    Args:
        path: the file.
        settings: the settings model of the command.
        command: the words of the command, for hints.

    Raises:
        StoreError: the file cannot be read.
        UsageError: it is not valid TOML, or a setting is unknown or invalid.
    """
    try:
        values = tomllib.loads(Path(expand_home(path)).read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"cannot read `{path}`: {reason}", hint="give --config a file with settings") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"`{path}` is not valid TOML: {error}", hint='write lines such as: algo = "metasgd"'
        ) from error
    hint = f"the settings are the options in `{command} --help`, with _ for -"
    for key in values:
        if key not in settings.model_fields:
            known = did_you_mean(key, settings.model_fields)
            raise UsageError(f"`{path}`: `{command}` has no setting `{key}`", hint=f"{known}{hint}")
    if (empty := settings.empty_path(values)) is not None:
        raise invalid_value(f"{path}: {empty}", EMPTY_PATH, hint)
    try:
        # as JSON, because strict validation then accepts lists as tuples and texts as paths; a date becomes no value
        return settings.model_validate_json(json.dumps(values, default=lambda _: {}), strict=True).explicit()
    except ValidationError as error:
        details = error.errors()[0]
        key = str(details["loc"][0])
        raise invalid_value(f"{path}: {key}", {**details, "input": values[key]}, hint) from error


def config_text(settings: Settings, command: str) -> bytes:
    """Return the settings that were set as TOML, which `read_config` reads.

    Raises:
        UsageError: a path is not UTF-8.
    """
    values = settings.model_dump(mode="json", include=set(settings.model_fields_set), exclude_none=True)
    lines = [f"# nilr {command} (nilr {__version__})"]
    for key in sorted(values):
        # of these values, JSON is TOML too, except for one character
        lines.append(f"{key} = {json.dumps(values[key], ensure_ascii=False)}")
        try:
            lines[-1].encode()
        except UnicodeEncodeError as error:
            what = f"`{key}` has a path that is not UTF-8, which a TOML file cannot contain"
            raise UsageError(what, hint="rename the file or folder, or omit --save-config") from error
    return "\n".join(lines).replace("\x7f", "\\u007f").encode()
