"""What a store has to say while it is asked."""

from __future__ import annotations

import click

__all__ = ["note"]


def note(message: str) -> None:
    """One line on standard error."""
    click.echo(f"bpfleet: {message}", err=True)
