"""The DICOM gateway: certificates of those who send to it."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.options import Home, Json, configured, path_of, show, writing

app = typer.Typer()
gateway = typer.Typer(help="The DICOM gateway.", no_args_is_help=True)
app.add_typer(gateway, name="gateway")


@gateway.command("certificate")
def gateway_certificate(
    name: Annotated[str, typer.Argument(help="Of the sender, such as its AE title.")],
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=path_of, help="Where to write it [default: here].")
    ] = Path(),
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a certificate for a modality or PACS that sends over TLS.

    Valid for two years, of the authority that the setting gateway.make_certificates makes.
    """
    from laptop.home.gateway_certificates import issue_to_sender
    from lungline.home import Home as Folder

    made = Folder.make(configured(home).home)
    with writing(folder):
        pair, authority = issue_to_sender(made, name, folder)
    files = {"certificate": str(pair.certificate), "key": str(pair.key), "authority": str(authority)}
    show(files, as_json, lambda: console.say(f"Wrote {', '.join(files.values())}. The key is secret."))
