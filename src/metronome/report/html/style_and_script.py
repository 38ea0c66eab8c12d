"""How the page looks, and what a click on a heading of a table does."""

NARROW_BELOW = 700  # pixels of a window, from where on the figures for a phone are shown

STYLE = """
:root { color-scheme: light; --line: #e3e5e8; --soft: #f6f7f9; --text: #1d2126; --grey: #5d6670; --blue: #0062a3; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: 16px; margin: 22px 0 8px; }
.question { font-size: 19px; line-height: 1.4; margin: 10px 0; max-width: 900px; }
.answer { font-size: 16px; max-width: 900px; }
h2 { font-size: 20px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 8px 0; } .note { color: var(--grey); font-size: 14px; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--soft);
  padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 14px 0; }
dt { color: var(--grey); } dd { margin: 0; }
nav { margin: 14px 0 0; font-size: 14px; } nav a { margin-right: 14px; } a { color: var(--blue); }
.table { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; max-height: 80vh; overflow-y: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th.word, td.word { text-align: left; }
thead th { position: sticky; top: 0; background: var(--soft); padding: 0; z-index: 2; }
td:first-child { position: sticky; left: 0; background: #fff; z-index: 1; border-right: 1px solid var(--line); }
th:first-child { left: 0; z-index: 3; border-right: 1px solid var(--line); }
td.best { background: #e2f1e6; }
th button { all: unset; box-sizing: border-box; cursor: pointer; padding: 8px 10px; width: 100%; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--blue); outline-offset: -2px; border-radius: 4px; }
th button::after { content: "\\2195"; color: #6b747d; margin-left: 5px; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--blue); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--blue); }
tbody tr:hover td:not(.best) { background: #f2f7fb; } tbody tr:last-child td { border-bottom: 0; }
td small { color: var(--grey); } td.folder { max-width: 340px; overflow: hidden; text-overflow: ellipsis; }
details { margin: 14px 0; } summary { cursor: pointer; color: var(--blue); padding: 4px 0; }
figure { margin: 22px 0 30px; } picture { display: block; }
figure img { width: 100%; max-width: 1000px; height: auto; display: block; }
figcaption { color: var(--grey); font-size: 14px; max-width: 1000px; margin-top: 6px; }
li { margin: 4px 0; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 18px 16px 40px; } h1 { font-size: 23px; } .question { font-size: 17px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin: 0 0 8px; } figure img { max-width: 520px; }
  td:first-child { max-width: 40vw; overflow: hidden; text-overflow: ellipsis; }
  th:first-child { white-space: normal; min-width: 104px; max-width: 40vw; overflow-wrap: anywhere; }
  th, td { padding: 6px 8px; } ul { padding-left: 20px; }
}
@media print { .table { overflow: visible; max-height: none; } details { display: none; }
  figure { break-inside: avoid; } }
"""

# A click, Enter or Space on a heading sorts its table: numbers by size, empty cells last.
SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const x = key(a), y = key(b), m = parseFloat(x), n = parseFloat(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = [isNaN(m) ? 1 : 0, isNaN(n) ? 1 : 0];
      if (numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
      return (up ? 1 : -1) * (numbers[0] ? x.localeCompare(y) : m - n);
    };
    body.append(...[...body.rows].sort(compare));
  }));
});
"""
