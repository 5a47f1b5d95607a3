"""Write the generated tables of the README: `python -m tests.support.write_readme`."""

import re

from tests.test_readme import README, ROOT, commands_table, settings_table


def main() -> None:
    text = README
    for mark, table in (("settings", settings_table()), ("commands", commands_table())):
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
        )
    (ROOT / "README.md").write_text(text)


if __name__ == "__main__":
    main()
