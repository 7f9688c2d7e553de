"""Common parts of every page of a report: how text gets into it, its style sheet, and the one script that searches,
sorts and copies."""

# ruff: noqa: E501 - the style sheet

from __future__ import annotations

import html

from kdump.display import shown


def escape(text: object) -> str:
    """Foreign text for HTML: as it is shown everywhere, with its markup escaped."""
    return html.escape(shown(text))


STYLE = """
:root{--ink:#1d2329;--dim:#5d6872;--line:#d5dadf;--soft:#f4f6f8;--bad:#a32d2d;--warn:#96560f;--paper:#fff;--focus:#2f6f9f;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#dfe4e8;--dim:#98a3ad;--line:#39424a;--soft:#20262b;--bad:#f08a8a;--warn:#e5ad62;--paper:#15191d;--focus:#7db4dc}}
*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:1.5rem;color:var(--ink);background:var(--paper);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.45rem;line-height:1.25;margin:.2rem 0 .6rem;color:var(--bad);overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0;display:inline}
section{margin:1rem 0}p{margin:.4rem 0}code,pre,td,.frames{font:13px/1.45 ui-monospace,monospace}pre{overflow-x:auto;background:var(--soft);padding:.7rem;margin:.5rem 0}
details{border-top:1px solid var(--line);padding:.6rem 0}summary{cursor:pointer}:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
details details{border:0;padding:.2rem 0 .2rem .8rem}dl{display:grid;grid-template-columns:fit-content(40%) 1fr;gap:.1rem 1rem;margin:.6rem 0}dl>div{display:contents}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0}caption{text-align:left;color:var(--dim);font-weight:600;padding:.3rem 0 .2rem}th,td{text-align:left;padding:.1rem .9rem .1rem 0;vertical-align:top}th{color:var(--dim);font-weight:600}td.n,th.n{text-align:right}
tbody tr:hover{background:var(--soft)}.frames{margin:.3rem 0 .3rem 1.2rem;padding:0;list-style:none}.guilty{font-weight:700;color:var(--bad)}.dim{color:var(--dim)}
.findings{list-style:none;padding:0}.findings li{border-left:4px solid var(--line);padding:.15rem .7rem;margin:.3rem 0;background:var(--soft)}.findings a{color:inherit}.critical{border-color:var(--bad)!important}.warning{border-color:var(--warn)!important}
svg{width:100%;height:auto;display:block;margin:.6rem 0 .2rem}.frame{stroke:var(--line)}.cpus{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(2.1rem,1fr));gap:.25rem;padding:0;margin:.5rem 0}.cpus li{border-radius:3px;text-align:center;color:#fff;font:12px/1.9rem system-ui,sans-serif}.axis{fill:var(--dim);font:11px sans-serif}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:0;margin:.2rem 0;color:var(--dim);font-size:.85rem}.key.blank{border:1px solid var(--dim)}.key{display:inline-block;width:.7rem;height:.7rem;margin-right:.35rem}
#find{position:sticky;top:0;display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem .7rem;margin:1rem 0 .4rem;padding:.4rem 0;background:var(--paper);color:var(--dim)}
#search{flex:1;min-width:8rem;padding:.45rem .6rem;border:1px solid var(--dim);border-radius:4px;background:var(--paper);color:var(--ink);font:inherit}kbd{border:1px solid var(--line);border-radius:3px;padding:0 .3rem;font:12px ui-monospace,monospace}.gone,[hidden]{display:none!important}details{scroll-margin-top:4rem}
.sum{color:var(--dim);font-size:.9rem;margin-left:.5rem}.mark{display:inline-block;border-radius:3px;padding:0 .4rem;margin-left:.5rem;font-size:.8rem;color:var(--paper);background:var(--dim)}.mark.critical{background:var(--bad)}.mark.warning{background:var(--warn)}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--focus)}th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
h3{font-size:1rem;margin:.6rem 0 .2rem;color:var(--dim);font-weight:600}.prose{margin:.3rem 0;padding-left:1.2rem}.prose li{margin:.2rem 0}
.copy+div{clear:right}.copy{float:right;border:1px solid var(--line);border-radius:4px;background:var(--soft);color:var(--dim);font:12px system-ui,sans-serif;padding:.15rem .55rem;cursor:pointer}.address{color:var(--dim);margin-left:.8rem;font-size:.85em}
table,pre{overflow-wrap:normal}
@media (max-width:32rem){body{padding:.8rem}.axis{font-size:22px}dl{grid-template-columns:1fr;gap:0}dt{margin-top:.3rem}.frames{margin-left:.2rem;overflow-wrap:anywhere}td,th{padding-right:.6rem}.address{display:block;margin:0}.sum{display:block;margin-left:0}details details{padding-left:.3rem}}
@media print{#find{display:none}pre{white-space:pre-wrap;overflow-wrap:anywhere}.scroll{overflow:visible}h2,summary{break-after:avoid}tr,li{break-inside:avoid}body{max-width:none;padding:0}details>*{display:block}details>dl{display:grid}details::details-content{content-visibility:visible;height:auto}}
"""
SCRIPT = """
const box=document.getElementById('search'),found=document.getElementById('found'),parts=[...document.querySelectorAll('details')];
// Who opened a part for a while closes it again.
const keep=()=>parts.forEach(part=>part.was??=part.open),restore=()=>parts.forEach(part=>{part.open=part.was??part.open;delete part.was;});
document.getElementById('find').hidden=false;
box.addEventListener('input',()=>{const word=box.value.toLowerCase();let hits=0;
for(const item of document.querySelectorAll('[data-item]')){const hit=!word||item.textContent.toLowerCase().includes(word);
item.classList.toggle('gone',!hit);if(hit&&word)hits++;}
if(word)keep();else restore();
for(const part of parts){const hit=part.matches('[data-item]:not(.gone)')||!!part.querySelector('[data-item]:not(.gone)');
part.classList.toggle('gone',!!word&&!hit);if(word)part.open=hit;}
found.textContent=word?hits+' found':'';});
const order=(cell,other)=>{const [a,b]=[cell,other].map(each=>each.dataset.v??each.textContent);const numbers=[a,b].map(Number);
return a!==''&&b!==''&&!numbers.some(Number.isNaN)?numbers[0]-numbers[1]:a.localeCompare(b);};
for(const button of document.querySelectorAll('th button'))button.addEventListener('click',()=>{
const head=button.parentElement,place=head.cellIndex,body=head.closest('table').tBodies[0],down=head.ariaSort==='ascending';
for(const other of head.parentElement.cells)other.ariaSort=null;head.ariaSort=down?'descending':'ascending';
body.append(...[...body.rows].sort((a,b)=>(down?-1:1)*order(a.cells[place],b.cells[place])));});
const copied=async(text,button)=>{try{await navigator.clipboard.writeText(text);}catch{const area=document.createElement('textarea');area.value=text;
document.body.append(area);area.select();document.execCommand('copy');area.remove();button.focus();}
const was=button.textContent;button.textContent='copied';setTimeout(()=>button.textContent=was,1500);};
for(const button of document.querySelectorAll('.copy')){button.hidden=false;button.addEventListener('click',event=>{event.preventDefault();
const from=document.getElementById(button.dataset.from);copied((from.content??from).textContent.trim(),button);});}
addEventListener('keydown',event=>{if(event.key==='/'&&event.target!==box&&!event.ctrlKey&&!event.altKey&&!event.metaKey){event.preventDefault();box.focus();box.select();}});
addEventListener('hashchange',()=>{const part=document.getElementById(location.hash.slice(1));if(part)part.open=true;});
addEventListener('beforeprint',()=>{keep();for(const part of parts)part.open=true;});
addEventListener('afterprint',()=>{if(!box.value)restore();});
"""
