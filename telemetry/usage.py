"""Usage errors of the commands: one line each, with the closest name and where to look."""

from __future__ import annotations

import click

from telemetry.errors import did_you_mean


class CommandGroup(click.Group):
    """A group of commands that suggests the closest command for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` name, and its arguments.

        Raises:
            click.UsageError: there is no such command.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no such command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def click_error_text(error: click.ClickException) -> str:
    """Return the message of an error.

    A usage error becomes one line, which ends with the command for help unless the error is only about a value.
    """
    if not isinstance(error, click.UsageError):
        return error.format_message()
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        text = f"no such option {error.option_name!r}{did_you_mean(error.option_name, _options(error.ctx))}"
    else:
        text = " ".join(error.format_message().split())
    if text[:2].istitle():
        text = text[0].lower() + text[1:]
    about_value = isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)
    if error.ctx is None or about_value:
        return text
    if not text.endswith("?"):
        text = text.removesuffix(".") + "."
    return f"{text} See: {error.ctx.command_path} --help"


def _options(ctx: click.Context) -> list[str]:
    return [name for param in ctx.command.params for name in (*param.opts, *param.secondary_opts)]
