// The review page: one case after the other, verdicts by keys. All state that matters is on the server.
'use strict';

const $ = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const STEP = 8, SMALLEST = 4;  // pixels by which keys move a drawn box, and that it is large at least

let listing = null;             // cases, sources, kinds
let current = 0;                // case
let at = {source: 0, frame: 0}; // what is shown
let shown = null;               // the frame's facts
let drawn = null;               // [x, y, width, height] while a box is drawn
let asked = 0;                  // answers to an older question are dropped

async function call(address, content) {
  const options = content === undefined ? {} : {
    method: 'POST', body: JSON.stringify(content),
    headers: {'Content-Type': 'application/json', 'X-Semanom-Review': '1'}};
  const answer = await fetch(address, options);
  if (!answer.ok) {
    const text = await answer.text();
    let why = new DOMParser().parseFromString(text, 'text/html').querySelector('p')?.textContent || text;
    try { why = JSON.parse(text).error; } catch { /* it is a page */ }
    throw new Error(why);
  }
  return answer.json();
}

function say(text, bad = false) {
  $('mode').textContent = text;
  $('mode').className = bad ? 'bad' : '';
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const clock = stamp => new Date(Number(BigInt(stamp) / 1000000n)).toISOString().replace('T', ' ').replace('Z', '');
const stateOf = one => one.disagree ? 'differ' : one.opinion || 'none';

function describe() {
  const one = listing.cases[current], source = listing.sources[at.source];
  const here = one && one.source === at.source && one.frame === at.frame;
  const done = listing.cases.filter(other => other.opinion).length;
  $('progress').textContent = `${done} of ${listing.cases.length} judged`;
  $('where').textContent = source ? `${source.path}  ${source.topic}  frame ${at.frame + 1} of ${source.frames}` : '';
  $('where').title = $('where').textContent;
  const said = !one ? ['nothing was flagged', 'none'] : one.disagree ? ['authors differ', 'differ'] :
    one.opinion ? [one.opinion + (one.kind ? `: ${one.kind}` : ''), one.opinion] : ['not judged yet', 'none'];
  $('verdict').replaceChildren(element('span', here || !one ? said[0] : 'another frame', here || !one ? said[1] : 'none'));
  const facts = !shown ? [] : [['time', clock(shown.stamp_ns)], ['stamp', shown.stamp_ns],
    ['frame', shown.verdict || 'no result'], ['frame score', shown.score === null ? 'unknown' : shown.score.toFixed(2)]];
  if (shown && shown.said) facts.push(['why', shown.said]);
  if (here) {
    facts.push(['score', `${one.score === null ? 'unknown' : one.score.toFixed(2)} (alarm above 1)`]);
    if (one.p_value !== null) facts.push(['p-value', one.p_value.toPrecision(2)]);
    facts.push(['flagged in', one.frames === 1 ? 'one frame' : `${one.frames} frames; this is the one of the highest score`]);
    if (one.label) facts.push(['label', one.label]);
  }
  $('facts').replaceChildren(...facts.flatMap(([name, text]) => [element('dt', name), element('dd', text)]));
  for (const [number, button] of [...$('strip').children].entries()) {
    button.className = stateOf(listing.cases[number]);
    if (number === current) button.setAttribute('aria-current', 'true'); else button.removeAttribute('aria-current');
  }
  $('strip').children[current]?.scrollIntoView({inline: 'nearest', block: 'nearest'});
}

function shape(kind, box, contour) {
  for (const style of ['under', kind]) {
    const made = document.createElementNS(SVG, contour && contour.length > 2 ? 'polygon' : 'rect');
    if (contour && contour.length > 2) made.setAttribute('points', contour.map(([x, y]) => `${x + .5},${y + .5}`).join(' '));
    else ['x', 'y', 'width', 'height'].forEach((name, place) => made.setAttribute(name, box[place]));
    made.setAttribute('class', style);
    $('drawing').append(made);
  }
}

function draw() {
  const picture = $('picture'), one = listing.cases[current];
  if (!picture.naturalWidth) return;
  $('drawing').setAttribute('viewBox', `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`);
  const room = $('stage').getBoundingClientRect();
  const scale = Math.min((room.width - 26) / picture.naturalWidth, (room.height - 26) / picture.naturalHeight);
  $('frame').style.width = `${picture.naturalWidth * scale}px`;
  $('frame').style.height = `${picture.naturalHeight * scale}px`;
  $('drawing').replaceChildren();
  const here = one && one.source === at.source && one.frame === at.frame;
  for (const outline of shown ? shown.outlines : []) {
    const same = here && String(outline.box) === String(one.box);
    if (!same) shape('other', outline.box, outline.contour);
  }
  if (here) shape('case', one.box, one.contour);
  for (const box of shown ? shown.missed : []) shape('missed', box);
  if (drawn) shape('drawn', drawn);
}

async function show(source, frame) {
  const mine = ++asked;
  at = {source, frame};
  const address = `/pictures/${source}/${frame}.jpg`;
  const loaded = new Promise(done => { $('picture').onload = done; $('picture').onerror = () => { say('the picture is gone', true); done(); }; });
  $('picture').src = address;
  const facts = await call(`/api/sources/${source}/frames/${frame}`);
  await loaded;
  if (mine !== asked) return;
  shown = facts;
  describe();
  draw();
}

async function open(number) {
  if (!listing.cases.length) {
    say('nothing was flagged; look through the frames with the arrow keys, and press m where something was missed');
    if (listing.sources.length) await show(0, 0);
    return;
  }
  current = Math.max(0, Math.min(number, listing.cases.length - 1));
  const one = listing.cases[current];
  await show(one.source, one.frame);
  const mine = asked, details = await call(`/api/cases/${current}`);
  if (mine !== asked) return;
  $('nearest').hidden = !details.nearest?.picture;
  if (details.nearest?.picture) $('nearest').src = `/nearest/${current}.jpg`;
  const near = details.nearest;
  $('nearness').textContent = near ? `${near.source}, ${clock(near.stamp_ns)}, distance ${near.distance.toFixed(3)}` :
    'not known of this one';
  const gone = new Set(details.history.map(line => line.revokes));
  $('history').replaceChildren(...details.history.filter(line => line.opinion !== 'revoked').map(line => {
    const item = element('li', '', gone.has(line.id) ? 'gone' : '');
    item.append(element('span', line.opinion + (line.kind ? `: ${line.kind}` : ''), line.opinion),
      ` ${line.author}, ${line.machine}, ${line.time.slice(0, 19).replace('T', ' ')} UTC`);
    return item;
  }));
}

async function relist() {
  listing = await call('/api/cases');
  $('kinds').replaceChildren(...listing.kinds.map(kind => { const option = document.createElement('option'); option.value = kind; return option; }));
  if ($('strip').children.length !== listing.cases.length) {
    $('strip').replaceChildren(...listing.cases.map((one, number) => {
      const button = element('button', '');
      button.title = `case ${number + 1}, score ${one.score === null ? 'unknown' : one.score.toFixed(2)}`;
      button.tabIndex = -1;
      button.onclick = () => run(() => open(number));
      return button;
    }));
  }
}

function next() {
  const open = listing.cases.findIndex((one, number) => number > current && !one.opinion);
  return open >= 0 ? open : listing.cases.findIndex(one => !one.opinion);
}

async function give(verdict, kind = '') {
  if (!listing.cases.length) return;
  const given = await call(`/api/cases/${current}/verdict`, {verdict, kind});
  await relist();
  const open_ = next();
  await open(open_ >= 0 ? open_ : current);
  say(open_ >= 0 ? `${given.opinion}${given.kind ? ` (${given.kind})` : ''} noted; u takes it back` :
    'every case is judged; u takes the last verdict back');
}

function ask(question) {
  const dialog = $('asking');
  $('question').textContent = question;
  $('kind').value = '';
  dialog.returnValue = 'esc';
  dialog.showModal();
  return new Promise(done => {
    dialog.onclose = () => done(dialog.returnValue === 'esc' ? null : $('kind').value);
  });
}

async function undo() {
  const answer = await call('/api/undo', {});
  if (!answer.revoked) return say('there is nothing to take back in this session');
  await relist();
  if (answer.case !== null && answer.case !== undefined) await open(answer.case); else await show(at.source, at.frame);
  say(`${answer.revoked.opinion} taken back`);
}

function begin() {
  const picture = $('picture');
  const size = Math.round(Math.min(picture.naturalWidth, picture.naturalHeight) / 5);
  drawn = [Math.round((picture.naturalWidth - size) / 2), Math.round((picture.naturalHeight - size) / 2), size, size];
  document.body.classList.add('drawing');
  say('draw what was missed: drag, or arrows move and Shift+arrows resize; Enter accepts, Esc goes back');
  draw();
}

function end() {
  drawn = null;
  document.body.classList.remove('drawing');
  say('');
  draw();
}

async function accept() {
  const box = drawn, {source, frame} = at;
  const kind = await ask('What was missed?');
  if (kind === null) return;
  await call(`/api/sources/${source}/frames/${frame}/missed`, {box, kind});
  end();
  await relist();
  await show(source, frame);
  say('noted as missed; u takes it back');
}

function nudge(key, resize) {
  const dx = {ArrowLeft: -STEP, ArrowRight: STEP}[key] || 0, dy = {ArrowUp: -STEP, ArrowDown: STEP}[key] || 0;
  const [width, height] = [$('picture').naturalWidth, $('picture').naturalHeight];
  let [x, y, w, h] = drawn;
  if (resize) { w = Math.max(SMALLEST, Math.min(w + dx, width - x)); h = Math.max(SMALLEST, Math.min(h + dy, height - y)); }
  else { x = Math.max(0, Math.min(x + dx, width - w)); y = Math.max(0, Math.min(y + dy, height - h)); }
  drawn = [x, y, w, h];
  draw();
}

function pixel(event) {
  const area = $('picture').getBoundingClientRect();
  const clamp = (value, most) => Math.max(0, Math.min(most, Math.round(value)));
  return [clamp((event.clientX - area.left) / area.width * $('picture').naturalWidth, $('picture').naturalWidth),
    clamp((event.clientY - area.top) / area.height * $('picture').naturalHeight, $('picture').naturalHeight)];
}

$('frame').onpointerdown = event => {
  if (!drawn) return;
  event.preventDefault();
  $('frame').setPointerCapture(event.pointerId);
  const [x0, y0] = pixel(event);
  $('frame').onpointermove = moved => {
    const [x1, y1] = pixel(moved);
    const [x, y, w, h] = [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
    if (w >= SMALLEST && h >= SMALLEST) { drawn = [x, y, w, h]; draw(); }
  };
  $('frame').onpointerup = () => { $('frame').onpointermove = null; };
};

let working = Promise.resolve();
function run(task) {  // one after the other, so that quick keys meet the case that they were pressed for
  working = working.then(task).catch(error => say(error.message, true));
}

function press(key, shift) {
  if (drawn) {
    if (key.startsWith('Arrow')) nudge(key, shift);
    else if (key === 'Enter') run(accept);
    else if (key === 'Escape') end();
    else return false;
    return true;
  }
  const step = by => () => {
    const source = listing.sources[at.source];
    return source && show(at.source, Math.max(0, Math.min(at.frame + by, source.frames - 1)));
  };
  const actions = {
    n: () => give('nominal'), s: () => give('skip'), u: undo, m: begin,
    a: async () => { if (!listing.cases.length) return; const kind = await ask('What kind of anomaly?'); if (kind !== null) await give('anomaly', kind); },
    x: () => { const number = next(); if (number < 0) say('every case is judged'); else return open(number); },
    ArrowRight: () => { say(''); return open(current + 1); }, ArrowLeft: () => { say(''); return open(current - 1); },
    ArrowDown: step(1), ArrowUp: step(-1)};
  const action = actions[key] || actions[key.toLowerCase()];
  if (action) run(action);
  return Boolean(action);
}

document.addEventListener('keydown', event => {
  if ($('asking').open || event.ctrlKey || event.metaKey || event.altKey || !listing) return;
  if (press(event.key, event.shiftKey)) event.preventDefault();
});
for (const button of document.querySelectorAll('footer button')) {
  button.onclick = () => { button.blur(); if (listing) press(button.dataset.key, false); };
}
window.addEventListener('resize', () => listing && draw());

run(async () => {
  await relist();
  const first = next();
  await open(first >= 0 ? first : 0);
  if (listing.notes.length) say(listing.notes.join('; '));
});
