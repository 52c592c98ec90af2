"""`grao quickstart`: the whole method on the embedded tasks, from nothing to a report."""

from grao.cli.arguments import QuickstartArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import TerminalScreen, open_console
from grao.cli.train import show
from grao.config import Recipe, load_recipe
from grao.config.strict_yaml import write_inline
from grao.errors import InputError
from grao.sandbox.world import Sandbox, prepare
from grao.studies.run import start_run

_SETTINGS = {
    "data.rejected": "rejected",
    "rewards.0.function": "grao.sandbox.judge:gold",
    "rewards.0.relative": "sign",
    "rollout.max_new_tokens": "40",
    "rollout.batch_size": "256",
    "training.prompts_per_step": "32",
    "training.learning_rate": "5e-4",
    "training.steps": "100",
}
"""What differs from the paper: a tiny model learns in larger and smaller steps; an audit finds rejected answers."""


def run(arguments: QuickstartArguments) -> int:
    """Builds the embedded world, aligns its model and shows what came of it."""
    console = open_console()
    screen = TerminalScreen(console)
    if (arguments.output / "manifest.json").exists():
        raise InputError(f"--output: {arguments.output} already holds a run; choose another folder or remove it")
    with quiet_libraries():
        with screen.stage("building a tiny model") as advance:
            world = prepare(
                ability=arguments.ability,
                architecture=arguments.architecture,
                seed=arguments.seed,
                progress=lambda step, total, loss: advance(step, total),
            )
        finished = start_run(quickstart_recipe(arguments, world), screen)
    show(finished, console)
    return 0


def quickstart_recipe(arguments: QuickstartArguments, world: Sandbox) -> Recipe:
    """An ordinary recipe on the embedded world; options of the command line win."""
    settings = {
        "model.path": write_inline(str(world.model)),
        "data.path": write_inline(str(world.train)),
        "data.test_path": write_inline(str(world.test)),
        "output": write_inline(str(arguments.output)),
        "seed": str(arguments.seed),
        **_SETTINGS,
    }
    pairs = list(settings.items())
    if arguments.steps is not None:
        pairs.append(("training.steps", str(arguments.steps)))
    return load_recipe(None, [*pairs, *arguments.overrides])
