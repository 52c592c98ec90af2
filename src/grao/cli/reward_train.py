"""`grao reward train`: pairs of answers into a reward model."""

from grao.cli.arguments import RewardTrainArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import TerminalScreen, open_console
from grao.reports.reward_model import reward_model_table
from grao.studies.reward_model import train_reward_model


def run(arguments: RewardTrainArguments) -> int:
    """Trains, measures, and says where the model lies."""
    console = open_console()
    with quiet_libraries():
        record = train_reward_model(arguments.recipe, TerminalScreen(console))
    console.print(reward_model_table(record))
    console.print(f"model   {arguments.recipe.output / 'model'}", highlight=False, soft_wrap=True)
    console.print(f"record  {arguments.recipe.output / 'reward.json'}", highlight=False, soft_wrap=True)
    return 0
