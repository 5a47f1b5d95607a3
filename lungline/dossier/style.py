"""The look of the pages of this room, on a screen in light and dark, and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --dim: #5b6877; --line: #d8dfe7; --paper: #fff; --wash: #f4f6f9;
  --accent: #1f5fa8; --urgent: #b3261e; --soon: #9a6700; --routine: #1a7f37 }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e9f0; --dim: #9aa7b6; --line: #2e3947; --paper: #10161d;
  --wash: #18212b; --accent: #7ab7ff; --urgent: #ff8a80; --soon: #e3b341; --routine: #56d364 } }
* { box-sizing: border-box }
body { margin: 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper) }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2rem; padding-bottom: 1rem } main > :first-child { border-top: 1px solid var(--line) }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 0 0 .6rem } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
.kicker { margin: 0 0 .2rem; color: var(--accent); font-weight: 600 }
.disclaimer { margin: .4rem 0 0; color: var(--dim) }
section { padding: 1.4rem 0 1rem; border-bottom: 1px solid var(--line) }
footer { padding: 1rem 1.5rem 3rem; color: var(--dim); font-size: .9rem }
code { font: .86em/1.4 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; overflow-wrap: anywhere }
.none { color: var(--dim); font-style: italic }
.facts { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: .2rem 1.4rem; margin: 0 0 .6rem }
.facts dt { color: var(--dim) } .facts dd { margin: 0; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .93rem }
th { text-align: left; font-weight: 600; color: var(--dim); white-space: nowrap }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
tbody tr:last-child td { border-bottom: 0 }
td:first-child { overflow-wrap: break-word } td time { white-space: nowrap }
.summary { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2rem; align-items: start }
.answer { font-size: 1.9rem; font-weight: 700; margin: 0 0 .5rem; line-height: 1.2 }
.answer small { font-size: 1rem; font-weight: 400; color: var(--dim); margin-left: .6rem }
.urgent { color: var(--urgent) } .soon { color: var(--soon) } .routine { color: var(--routine) }
.films { display: flex; gap: 1rem; flex-wrap: wrap }
figure { margin: 0 } .film { position: relative; background: #000; width: fit-content }
.film img { display: block; max-width: 20rem; max-height: 22rem }
.film svg { position: absolute; inset: 0; width: 100%; height: 100% }
.film polygon { fill: none; stroke: #6fe3ff; stroke-width: 3; vector-effect: non-scaling-stroke }
figcaption { color: var(--dim); font-size: .88rem; margin-top: .3rem; width: 0; min-width: 100% }
.notice { border-left: 4px solid var(--soon); background: var(--wash); padding: .5rem .9rem; margin: .6rem 0 }
.bad { border-left-color: var(--urgent) } .good { border-left-color: var(--routine) }
ul { margin: .3rem 0 .6rem; padding-left: 1.2rem } p { margin: .3rem 0 .6rem }
a { color: var(--accent) }
@media (max-width: 60rem) { .summary { grid-template-columns: 1fr } .facts { grid-template-columns: 1fr; gap: 0 }
  .facts dd { margin-bottom: .4rem } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #bbb; --paper: #fff; --wash: #fff;
  --accent: #000; --urgent: #000; --soon: #000; --routine: #000 }
  body { font-size: 10pt } header, main, footer { max-width: none; padding-left: 0; padding-right: 0 }
  tr, figure, dt, dd { break-inside: avoid } .wide { overflow: visible }
  .film { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
