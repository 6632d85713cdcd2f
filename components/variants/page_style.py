"""The style sheet of the optimize stage's page: light and dark, wide and narrow, and on paper.

In Python for the same reason as the template.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfefe; --ink: #1f2329; --soft: #5c6470; --line: #d9dde3; --band: #f3f5f8; --good: #1a7440; --good-band: #e3f4e9;
  --bad: #a3303c; --bad-band: #fbe6e8; --accent: #c84e00; --accent-band: #fdeee2; --link: #2166c1; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e4e7eb; --soft: #9aa3ae; --line: #353b44; --band: #1d2127; --good: #6cc98d; --good-band: #17301f;
  --bad: #f08a94; --bad-band: #3a1b20; --accent: #ff9a52; --accent-band: #38230f; --link: #7fb2f5;
  --plot-ink: #e4e7eb; --plot-grid: #2b3038; --plot-paper: #14171b; --plot-passes: #7fb2f5; --plot-chosen: #ff9a52;
  --plot-refused: #9097a1; --plot-gate: #f08a94; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px 20px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0 10px; max-width: 78ch; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
a { color: var(--link); }
nav { font-size: 13px; margin-top: 14px; display: flex; flex-wrap: wrap; gap: 2px 16px; }
.verdict { border-left: 5px solid var(--good); background: var(--good-band); padding: 16px 20px; border-radius: 4px; }
.verdict.no { border-color: var(--bad); background: var(--bad-band); }
.verdict p { margin: 0; max-width: none; font-size: 16px; }
.verdict ul { margin: 8px 0 0; padding-left: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 14px 0 0; }
.tile { border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px; }
.tile b { display: block; font-size: 20px; font-weight: 600; line-height: 1.3; }
.tile span { font-size: 13px; color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; margin: 10px 0; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--band); font-weight: 600; vertical-align: bottom; }
thead tr:first-child .over-head { border-left: 1px solid var(--line); text-align: center; color: var(--soft); font-weight: 500; }
td.first, th.first-head { border-left: 1px solid var(--line); }
th:first-child, .text { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1; font-weight: 600; }
thead th:first-child { background: var(--band); }
td.wrap { white-space: normal; min-width: 260px; }
tr.chosen > * { background: var(--accent-band); }
tr.why > td { text-align: left; white-space: normal; padding-top: 0; color: var(--soft); }
tr.why div { position: sticky; left: 9px; max-width: min(900px, calc(100vw - 62px)); }
tr.open > * { border-bottom: 0; }
.badge { display: inline-block; font-size: 11.5px; font-weight: 600; line-height: 1.5; padding: 0 7px; border-radius: 9px;
  background: var(--band); color: var(--soft); white-space: nowrap; }
.badge.passes { background: var(--good-band); color: var(--good); }
.badge.chosen { background: var(--accent); color: var(--paper); }
.badge.refused, .badge.unmade { background: var(--bad-band); color: var(--bad); }
.variants th, .variants td { padding: 5px 7px; }
.groups th, .groups td { padding: 4px 6px; }
.variants tbody th { min-width: 178px; white-space: normal; }
.note { display: block; font-weight: 400; font-size: 12px; color: var(--soft); }
.over { color: var(--bad); font-weight: 700; background: var(--bad-band); }
.loss1 { background: color-mix(in srgb, var(--bad) 7%, transparent); }
.loss2 { background: color-mix(in srgb, var(--bad) 18%, transparent); }
.loss3 { background: color-mix(in srgb, var(--bad) 34%, transparent); }
.gain { background: color-mix(in srgb, var(--good) 18%, transparent); }
.key span { white-space: nowrap; padding: 1px 7px; border-radius: 3px; margin-right: 4px; }
figure { margin: 12px 0; }
figure .scroll { border: 0; margin: 0; }
figure svg { display: block; width: 100%; min-width: 620px; max-width: 900px; height: auto; }
figcaption { font-size: 13px; color: var(--soft); max-width: 78ch; }
.flow { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; margin: 12px 0; }
.flow div { border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px; overflow-wrap: anywhere; }
.flow h3 { margin: 0 0 2px; }
.flow p { margin: 6px 0 0; font-size: 13px; }
.flow table { font-size: 13px; } .flow td, .flow th { padding: 1px 0; border: 0; background: none; font-weight: 400; }
.flow td { font-weight: 600; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--link); font-size: 14px; }
code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; font-size: 14px; margin: 8px 0; }
dt { font-weight: 600; } dd { margin: 0; }
@media screen and (max-width: 760px) {
  body { padding: 16px 12px 48px; } h1 { font-size: 22px; } .flow { grid-template-columns: 1fr; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } .tiles { grid-template-columns: 1fr 1fr; }
  .scroll th:first-child { max-width: 46vw; white-space: normal; } .variants tbody th:first-child { min-width: 118px; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11px; } nav, summary { display: none; }
  dl { font-size: 10px; gap: 1px 12px; } .tiles { grid-template-columns: repeat(5, 1fr); } h2 { margin-top: 22px; }
  .badge, .note { font-size: 8px; }
  .scroll { overflow: visible; border: 0; } table { font-size: 9px; } th, td { padding: 2px 4px; } td.wrap { min-width: 0; }
  th:first-child, tr.why div { position: static; max-width: none; } tr, figure, .flow div, .tile { break-inside: avoid; }
  h2, h3 { break-after: avoid; } figure svg { max-width: 180mm; min-width: 0; }
  details::details-content { content-visibility: visible; height: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
