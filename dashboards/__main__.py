"""Write the dashboards' JSON: `python -m dashboards`."""

from dashboards.rendering import FOLDER, rendered

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
