"""`strongroom completion`: the script that makes a shell complete our commands, options and names."""

import click
from click.shell_completion import get_completion_class

from strongroom.base.errors import ConfigurationError
from strongroom.cli.terminal import examples, say

_VARIABLE = "_STRONGROOM_COMPLETE"


@click.command(
    epilog=examples(
        'eval "$(strongroom completion bash)"   # in ~/.bashrc',
        'eval "$(strongroom completion zsh)"    # in ~/.zshrc, after compinit',
        "strongroom completion fish > ~/.config/fish/completions/strongroom.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script that makes a shell complete our commands.

    Beside commands and options, it completes names of datasets, partners, applications, approvals and runs. Names
    come from the state folder; no service is asked, and no secret is read.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigurationError(f"there is no completion for {shell}")
    say(kind(context.find_root().command, {}, "strongroom", _VARIABLE).source())
