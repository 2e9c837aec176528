"""The table of commands: name, settings, recipe and type of the result.

Functions and types are import paths, so that the table imports neither torch nor pydantic.
"""

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nilr.config.base import Settings
    from nilr.results.result import Result


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str  # as the user types it; a command of a group has two words
    help: str  # one sentence
    settings_name: str  # import path of the settings model
    # import path of the type of the result's metrics; None if the command measures nothing, and so has no `--json`
    result: str | None
    recipe: str  # import path of a function (settings, reporter) -> what the command returns
    show: str  # import path of a function (what the recipe returns, screen) -> None
    next: str | None = None  # import path of a function (settings, result) -> the command to run next
    check: str | None = None  # import path of a function (settings, result) that raises if the result fails a limit
    # import path of a function (settings, reporter) that checks and describes the work, by topic, and does none
    dry_run: str | None = None
    lists: bool = False  # whether it returns rows, which `--json` writes
    stored: bool = True  # whether the command line stores the result; `reproduce` and `demo` store theirs themselves
    distributed: bool = False  # whether several processes of torchrun can run it together
    shares_schema: str | None = None  # the command that has the same kind of result, and names its schema

    @property
    def settings(self) -> type["Settings"]:
        """The settings model."""
        found: type[Settings] = pkgutil.resolve_name(self.settings_name)
        return found

    @property
    def schema(self) -> str:
        """The result's `command`, as in the schema `nilr/<command>/1` and in names of files."""
        return self.shares_schema or self.name.replace(" ", "-")


COMMANDS = (
    Command("prepare-data", "Pack Mini-ImageNet, or any class-labelled images, into one HDF5 file.",
            "nilr.config.packs:PrepareDataSettings", "nilr.results.commands:PrepareDataMetrics",
            "nilr.recipes.prepare_data:run", "nilr.cli.show.prepare_data:show",
            dry_run="nilr.recipes.prepare_data:dry_run"),
    Command("meta-train", "Learn a meta-initialisation, and rates, from a pack.",
            "nilr.config.meta_train:TrainSettings", "nilr.results.commands:TrainMetrics",
            "nilr.recipes.meta_train:run", "nilr.cli.show.meta_train:show", "nilr.recipes.meta_train:next_command",
            dry_run="nilr.recipes.meta_train.dry_run:dry_run", distributed=True),
    Command("watch", "Watch running trainings from another terminal, from their files alone.",
            "nilr.config.models:WatchSettings", None,
            "nilr.recipes.watch:run", "nilr.cli.show.watch:show"),
    Command("adapt", "Adapt a model to one episode, or to your own labelled images.",
            "nilr.config.evaluation:AdaptSettings", "nilr.results.commands:AdaptMetrics",
            "nilr.recipes.adapt:run", "nilr.cli.show.adapt:show"),
    Command("probe", "Evaluate features before and after adaptation.",
            "nilr.config.evaluation:ProbeSettings", "nilr.results.probe:ProbeMetrics",
            "nilr.recipes.probe:run", "nilr.cli.show.probe:show", check="nilr.results.gate:check",
            dry_run="nilr.recipes.probe.dry_run:dry_run", distributed=True),
    Command("rates", "Describe the inner learning rates, layer by layer.",
            "nilr.config.evaluation:RatesSettings", "nilr.results.probe:RatesMetrics",
            "nilr.recipes.rates:run", "nilr.cli.show.rates:show"),
    Command("calibrate", "Compare a model with published accuracies, evaluated as each of them was.",
            "nilr.config.evaluation:CalibrateSettings", "nilr.results.calibrate:CalibrateMetrics",
            "nilr.recipes.calibrate:run", "nilr.cli.show.calibrate:show"),
    Command("bench", "Measure how fast this machine is, and how long a training will take.",
            "nilr.config.bench:BenchSettings", "nilr.results.bench:BenchMetrics",
            "nilr.recipes.bench:run", "nilr.cli.show.bench:show"),
    Command("reproduce", "Run the whole experiment over several seeds, and compare the signs with the paper's.",
            "nilr.config.reproduce:ReproduceSettings", "nilr.results.reproduce:ReproduceMetrics",
            "nilr.recipes.reproduce:run", "nilr.cli.show.reproduce:show",
            dry_run="nilr.recipes.reproduce.dry_run:dry_run", stored=False),
    Command("demo", "Run every step on generated images, in under three minutes.",
            "nilr.config.reproduce:DemoSettings", "nilr.results.probe:ProbeMetrics",
            "nilr.recipes.demo:run", "nilr.cli.show.probe:show", "nilr.recipes.demo:next_command",
            stored=False, shares_schema="probe"),
    Command("report", "Make tables and figures from result files.",
            "nilr.config.results:ReportSettings", None,
            "nilr.recipes.report:run", "nilr.cli.show.report:show"),
    Command("data ls", "List all packs.",
            "nilr.config.packs:ListPacksSettings", "nilr.results.data:PackRows",
            "nilr.recipes.data:list_packs", "nilr.cli.show.data:show_list", stored=False),
    Command("data show", "Show what a pack contains, and draw a contact sheet and an episode as PNG files.",
            "nilr.config.packs:ShowPackSettings", "nilr.results.data:PackCard",
            "nilr.recipes.data:show_pack", "nilr.cli.show.data:show_card", stored=False),
    Command("data verify", "Read packs, all packs by default, and check every digest.",
            "nilr.config.packs:VerifyPacksSettings", "nilr.results.data:PackChecks",
            "nilr.recipes.data:verify_packs", "nilr.cli.show.data:show_checks", stored=False),
    Command("data rm", "Remove packs, after a confirmation.",
            "nilr.config.packs:RemovePacksSettings", None,
            "nilr.recipes.data:remove_packs", "nilr.cli.show.removed:show"),
    Command("data compare", "Count the classes and the images that two packs share, by split.",
            "nilr.config.packs:ComparePacksSettings", "nilr.results.records:Overlap",
            "nilr.recipes.data:compare", "nilr.cli.show.data:show_overlap", stored=False),
    Command("results ls", "List the newest results.",
            "nilr.config.results:ResultListSettings", None,
            "nilr.recipes.results:list_results", "nilr.cli.show.results:show_list", lists=True),
    Command("results show", "Show results again, by default the newest one.",
            "nilr.config.results:ResultSettings", None,
            "nilr.recipes.results:show_result", "nilr.cli.show.results:show_results", lists=True),
    Command("results rm", "Remove results, after a confirmation.",
            "nilr.config.results:ResultRemoveSettings", None,
            "nilr.recipes.results:remove_results", "nilr.cli.show.results:show_removed"),
    Command("results export", "Write results of probe and rates as tidy tables for pandas.",
            "nilr.config.results:ResultExportSettings", None,
            "nilr.recipes.results:export_results", "nilr.cli.show.results:show_exported"),
    Command("models ls", "List models: algorithm, pack, status, best validation, size and age.",
            "nilr.config.models:ListModelsSettings", None,
            "nilr.recipes.models:select_models", "nilr.cli.show.models:show_list", lists=True),
    Command("models show", "Show what a model is, how it was trained, how good it is, and its inner rates.",
            "nilr.config.models:ModelSettings", "nilr.results.commands:ModelCard",
            "nilr.recipes.models.show:run", "nilr.cli.show.model_card:show", stored=False),
    Command("models compare", "Show in what models differ: settings, metrics and inner rates by layer.",
            "nilr.config.models:CompareModelsSettings", "nilr.results.commands:ModelComparison",
            "nilr.recipes.models.show:compare", "nilr.cli.show.model_card:show_comparison", stored=False),
    Command("models path", "Print the path of a model's checkpoint.",
            "nilr.config.models:ModelSettings", None,
            "nilr.recipes.models:find_model", "nilr.cli.show.models:show_path"),
    Command("models verify", "Read all files of models, of all models by default, and check every digest.",
            "nilr.config.models:ModelsSettings", None,
            "nilr.recipes.models:verify_models", "nilr.cli.show.models:show_checks"),
    Command("models rm", "Remove models, after a confirmation.",
            "nilr.config.models:RemoveSettings", None,
            "nilr.recipes.models:remove_models", "nilr.cli.show.removed:show"),
    Command("models import", "Check models from elsewhere, also of other libraries, and copy them into the store.",
            "nilr.config.models:ImportSettings", "nilr.results.commands:ImportMetrics",
            "nilr.recipes.models.importing:run", "nilr.cli.show.models:show_imported",
            "nilr.recipes.models.importing:next_command"),
    Command("models export", "Write a model to a file for other programs.",
            "nilr.config.models:ExportSettings", None,
            "nilr.recipes.models.exporting:run", "nilr.cli.show.models:show_exported"),
    Command("models push", "Upload a model to the Hugging Face Hub, with a model card.",
            "nilr.config.models:PushSettings", None,
            "nilr.recipes.models.hub:push", "nilr.cli.show.models:show_pushed"),
    Command("models pull", "Download a model from the Hugging Face Hub, and check it.",
            "nilr.config.models:PullSettings", "nilr.results.commands:ImportMetrics",
            "nilr.recipes.models.hub:pull", "nilr.cli.show.models:show_imported",
            "nilr.recipes.models.importing:next_command", shares_schema="models-import"),
)  # fmt: skip

GROUPS = {
    "data": "List, show, check, remove and compare the packs in the store.",
    "results": "List, show, remove and export the results in the store.",
    "models": "List, show, check, remove, import, export and share the models in the store.",
}


def result_type(command: Command) -> type["Result[Any]"] | None:
    """Return the type of a command's result; None if it has none."""
    if command.result is None:
        return None
    from nilr.results.result import Result

    found: type[Result[Any]] = Result[pkgutil.resolve_name(command.result)]  # type: ignore[misc,assignment]
    return found


def result_types() -> dict[str, type["Result[Any]"]]:
    """Return the type of every kind of result, by the `command` that it carries."""
    types = {command.schema: result_type(command) for command in COMMANDS}
    return {schema: found for schema, found in types.items() if found is not None}


def schema_of(settings: "Settings") -> str:
    """Return the `command` that the result of a recipe with these settings carries."""
    name = f"{type(settings).__module__}:{type(settings).__qualname__}"
    return next(command.schema for command in COMMANDS if command.settings_name == name)
