"""`strongroom`: the root of all commands, and the one place where their errors end."""

import signal
from collections.abc import Mapping
from typing import Any, Final

import click
from typing_extensions import override

from strongroom import __version__
from strongroom.cli.errors import report
from strongroom.cli.lazy import LazyCommand, LazyGroup

_PACKAGE: Final = "strongroom.cli.commands"


def _command(place: str, summary: str, *, hidden: bool = False) -> LazyCommand:
    return LazyCommand(place=f"{_PACKAGE}.{place}", summary=summary, hidden=hidden)


_COMMANDS: Final[Mapping[str, LazyCommand]] = {
    "demo": _command("demo:demo", "Show all eight steps on this machine, with real or made-up taxi trips."),
    "setup": _command("setup:setup", "Build what Spark needs beside the installed packages."),
    "login": _command("login:login", "Sign in at the services' issuer (OIDC), in the place of a key."),
    "logout": _command("login:logout", "Forget a sign-in."),
    "whoami": _command("login:whoami", "Show who you are at each service, and what you may do there."),
    "init": _command("up:init", "Make the keys of a data owner, a submitter and a recipient."),
    "up": _command("up:up", "Start both services and the simulated platform on this machine."),
    "down": _command("up:down", "Stop what `up` started."),
    "status": _command("up:status", "Show what runs, where, and who is trusted."),
    "chart": _command("chart:chart", "Install the services on Kubernetes with Helm, as their owner."),
    "trust": _command(
        "trust:trust", "Look at the trust file; trust another owner's services for joint runs, or Azure Attestation."
    ),
    "policy": _command("policy:policy", "Say which evidence the attestation service accepts."),
    "evidence": _command("evidence:evidence", "Look at evidence in files, and verify it."),
    "dataset": _command("dataset:dataset", "Make, fill, look at, decrypt and destroy datasets, as their owner."),
    "keys": _command("keys:keys", "Look at datasets' keys, rotate, enable and disable them."),
    "app": _command("app:app", "Pack applications and look at packed ones."),
    "approve": _command("approve:approve", "Approve that an application reads or writes a dataset."),
    "approvals": _command(
        "approvals:approvals", "List approvals and how often each was used; look at one, sign one that others proposed."
    ),
    "revoke": _command("approvals:revoke", "Revoke an approval. One person is enough, however many signed it."),
    "roster": _command("roster:roster", "Say who approves for a dataset, and how many of them it takes."),
    "leases": _command(
        "leases:leases", "List what may still be opened, and the runs that are open, of the datasets you answer for."
    ),
    "why": _command("leases:why", "Say why something was refused to RUN, as the owner of a dataset it asked for."),
    "vault": _command("vault:vault", "Keep datasets' keys in an Azure Key Vault or Managed HSM, as their owner."),
    "submit": _command("submit:submit", "Run a PySpark application on protected data, as spark-submit would."),
    "runs": _command("runs:runs", "List, follow and stop runs, and read what an application printed."),
    "shape": _command("shape:shape", "Look at where TEEs are on a cluster, and what may start in their pods."),
    "receipt": _command("receipt:receipt", "Look at the proof of a run, and verify it offline."),
    "custody": _command("custody:custody", "Hold a key service's master key together with others, and unlock it."),
    "log": _command("log:log", "Look at the key service's log, and check it."),
    "witness": _command("witness:witness", "Run a witness of logs, and say which witnesses the own log has."),
    "identity": _command("identity:identity", "Replace identity keys, and follow those that were replaced."),
    "image": _command("image:image", "Look at the images of Strongroom's containers."),
    "endorsements": _command("endorsements:endorsements", "Fetch, bundle and look at what hardware vendors vouch for."),
    "attestation-service": _command("services:attestation_service", "Run the attestation service in the foreground."),
    "key-service": _command("services:key_service", "Run the key service; back its state up, restore it."),
    "collateral-service": _command("services:collateral_service", "Run the collateral service in the foreground."),
    "simulated-platform": _command("services:simulated_platform", "Run the simulated SGX platform.", hidden=True),
    "provision": _command("services:provision", "Give a service in a container its private files.", hidden=True),
    "completion": _command("completion:completion", "Print the script that makes a shell complete our commands."),
    "dev": _command("dev:dev", "Write or check the generated files of a source tree."),
}


class _Root(LazyGroup):
    """The root group: what any command raises is explained here, and becomes the exit status."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise  # click's own ways to end
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - nothing ends in a traceback
            ctx.exit(report(error, debug=bool(ctx.params["debug"])))


@click.group(
    cls=_Root,
    name="strongroom",
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try it: strongroom demo",
)
@click.version_option(__version__, prog_name="strongroom")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; give it before the command.")
def strongroom(*, debug: bool) -> None:
    """Run unmodified PySpark applications on data that only attested code can read."""
    del debug  # it is read where errors end


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does: what it started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    strongroom.main(prog_name="strongroom")


if __name__ == "__main__":
    main()
