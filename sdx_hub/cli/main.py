"""The `sdx` command. Subcommands are imported when they are used, so that each starts fast."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec

import click

from firmware_schemas.errors import SchemaError
from sdx_hub.cli import console
from sdx_hub.cli.failures import FAILED, OK, USAGE, exit_code_of
from sdx_hub.domain.errors import HubError

_COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("sdx_hub.cli.audit:audit", "Who changed what, and when."),
    "demo": ("sdx_hub.demo.command:demo", "A hub and a small fleet on this machine."),
    "device": ("sdx_hub.cli.device:device", "Devices: enrol, accept, tag, assign, look at."),
    "filter": ("sdx_hub.cli.filter:filter_", "Saved filters: queries under a name."),
    "hub": ("sdx_hub.cli.hub:hub", "Run and look after a hub."),
    "keys": ("sdx_hub.cli.keys:keys", "Keys of people, ceremonies and rotations."),
    "login": ("sdx_hub.cli.login:login", "Store the address, token and image root of a hub."),
    "release": ("sdx_hub.cli.release:release", "Build, sign, verify and publish releases."),
    "rollout": ("sdx_hub.cli.rollout:rollout", "Bring a release to devices in waves that stop themselves."),
    "webhook": ("sdx_hub.cli.webhook:webhook", "Addresses that are told of events, in signed messages."),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS or not _exists(cmd_name):
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _exists(name: str) -> bool:
    # The demo is not part of every installation.
    return name != "demo" or (find_spec("sdx_hub.demo") is not None and find_spec("sdx_hub.demo.command") is not None)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there.")
@click.option("--profile", default="", help="Stored profile; else SDX_PROFILE, sdx.toml, `default`.")
@click.version_option(package_name="sdx-hub", prog_name="sdx")
@click.pass_context
def sdx(ctx: click.Context, as_json: bool, profile: str) -> None:
    """Signed software and configuration for fleets of unmanned craft.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 nothing to do, 4 not allowed, 5 signature or trust refused, 6 rollout halted.
    """
    ctx.obj = {"as_json": as_json, "profile": profile}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; print its errors; return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in argv
    try:
        outcome = sdx.main(args=argv, prog_name="sdx", standalone_mode=False)
    except click.UsageError as error:
        hint = f" Try `{error.ctx.command_path} --help`." if error.ctx else ""
        console.report("usage", f"{error.format_message()}{hint}", as_json=as_json)
        return USAGE
    except click.ClickException as error:
        console.report("failed", error.format_message(), as_json=as_json)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        console.report("aborted", "Stopped; nothing more was changed.", as_json=as_json)
        return FAILED
    except (HubError, SchemaError) as error:
        console.show_error(error, as_json=as_json)
        return exit_code_of(error)
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        console.report("os_error", f"{error.strerror or error}{where}.", as_json=as_json)
        return FAILED
    except Exception as error:
        if os.environ.get("SDX_TRACEBACK"):
            traceback.print_exc()
        console.report(
            "internal_error",
            f"This is a fault of sdx itself ({type(error).__name__}: {error}). Set SDX_TRACEBACK=1 and report it.",
            as_json=as_json,
        )
        return FAILED
    return outcome if isinstance(outcome, int) else OK


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
