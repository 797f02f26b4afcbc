"""`amodal export`: results and models in other tools' forms."""

from __future__ import annotations

import typer

from amodal.cli.export_onnx import export_onnx_command
from amodal.cli.export_scene import export_scene_command

export_app = typer.Typer(no_args_is_help=True)
export_app.command("scene")(export_scene_command)
export_app.command("onnx")(export_onnx_command)
