"""What may be typed: every flag declared once, and command lines read by that table."""

from library.flags.command_line import collect, parse
from library.flags.flag import Flag
from library.flags.parser import setup_parser
from library.flags.scripts import SCRIPTS
from library.flags.table import BY_NAME, flags_of, scripts_with
from library.flags.values import Flags

__all__ = ["BY_NAME", "SCRIPTS", "Flag", "Flags", "collect", "flags_of", "parse", "scripts_with", "setup_parser"]
