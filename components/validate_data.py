"""Hold the prepared data against the data contract."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate_data(prepared: dsl.Input[dsl.Dataset], docs: dsl.Output[dsl.HTML]) -> None:
    """Stop the run when the data break the contract; the Data Docs page is written either way."""
    import shutil
    import tempfile
    from pathlib import Path

    from components import step_events
    from data.contract import enforce, expectations_of
    from lungline.datasets.prepared import Prepared

    with step_events.step("validate_data") as step, tempfile.TemporaryDirectory() as temporary:
        try:
            enforce(Path(prepared.path), Path(temporary))
        finally:
            page = Path(temporary) / "index.html"
            if page.exists():
                shutil.copyfile(page, docs.path)
                step.progress(f"Data Docs: {docs.path}", page=docs.path)
        step.conclude(f"{len(expectations_of(Prepared.load(Path(prepared.path)).task))} expectations hold")
