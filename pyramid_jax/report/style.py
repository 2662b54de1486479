"""The style sheet of a report: light, dark, and on paper."""

CSS = """
:root{color-scheme:light dark;--back:#fff;--text:#1c1e21;--soft:#5c636b;
--edge:#d9dde2;--line:#1766b3;--band:#1766b333;--panel:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--back:#15181c;--text:#e6e8ea;
--soft:#9aa3ad;--edge:#353b43;--line:#66b2ff;--band:#66b2ff33;--panel:#1d2127}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:1.5rem;background:var(--back);
color:var(--text);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;
border-bottom:1px solid var(--edge)}h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0}.soft,figcaption{color:var(--soft)}
figcaption{font-size:.8rem;overflow-wrap:anywhere}
figcaption b{color:var(--text)}
.tiles{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}
.tiles div{background:var(--panel);border:1px solid var(--edge);
border-radius:6px;padding:.4rem .8rem}
.tiles b{display:block;font-size:1.15rem}
.tiles span{color:var(--soft);font-size:.8rem}
.curves{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr))}
.grids{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
figure{margin:0;break-inside:avoid}img{max-width:100%;height:auto}
svg{width:100%;height:auto;display:block}svg.score{width:120px;height:16px}
svg text{font:9px system-ui,sans-serif;fill:var(--soft)}
svg .y{text-anchor:end;dominant-baseline:middle}svg .x{text-anchor:middle}
.grid{stroke:var(--edge)}.resumed{stroke:var(--soft);stroke-dasharray:3 3}
.interval{stroke:var(--line);stroke-width:2}
polyline{fill:none;stroke:var(--line);stroke-width:1.6}
polygon{fill:var(--band)}circle{fill:var(--line)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem}
th,td{padding:.2rem .7rem;border-bottom:1px solid var(--edge);
text-align:left;vertical-align:top}
.numbers td,.numbers thead th:not(:first-child){text-align:right;
font-variant-numeric:tabular-nums}
.words td{overflow-wrap:anywhere}th{font-weight:600}tbody th{font-weight:400}
pre{background:var(--panel);border:1px solid var(--edge);border-radius:6px;
padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}
details summary{cursor:pointer;color:var(--soft)}
.note{border-left:3px solid #c77700;padding-left:.7rem}a{color:var(--line)}
@media print{:root{--back:#fff;--text:#000;--soft:#444;--edge:#bbb;
--line:#1766b3;--band:#1766b333;--panel:#fff}
body{max-width:none;padding:0;font-size:10pt}h2{break-after:avoid}
.curves{grid-template-columns:1fr 1fr}tr{break-inside:avoid}}
"""
