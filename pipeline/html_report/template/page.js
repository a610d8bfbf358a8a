// Charts are drawn when they come into view: a page of a year opens at once.
const options = { actions: false, renderer: "svg", ast: true, defaultStyle: false, tooltip: { theme: "custom" } };
async function draw(place) {
  const source = place.querySelector("script");
  if (!source) return;
  const spec = JSON.parse(source.textContent);
  source.remove();
  try {
    await window.vegaEmbed(place, spec, options);
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = "This chart could not be drawn; the table below has its numbers.";
    console.error(String(error));
  }
}
const charts = document.querySelectorAll(".chart");
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "300px" });
charts.forEach((place) => near.observe(place));
window.addEventListener("beforeprint", () => charts.forEach(draw));

// A link to a day opens it, and what it lies in.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
  target.scrollIntoView();
  if (target.tagName === "DETAILS") target.querySelector("summary").focus({ preventScroll: true });
}
window.addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (link && link.hash === location.hash) reveal();
});
reveal();

// In the calendar the arrow keys go from day to day; Tab leaves it.
for (const calendar of document.querySelectorAll(".calendar")) {
  const days = [...calendar.querySelectorAll("a.day")].sort((one, other) =>
    one.dataset.date.localeCompare(other.dataset.date));
  const reach = (day) => days.forEach((one) => { one.tabIndex = one === day ? 0 : -1; });
  if (days.length) reach(days[days.length - 1]);
  calendar.addEventListener("focusin", (event) => {
    if (days.includes(event.target)) reach(event.target);
  });
  calendar.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -7, ArrowDown: 7 };
    const at = days.indexOf(document.activeElement);
    if (at < 0 || !(event.key in steps || event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    if (event.key === "Home") return days[0].focus();
    if (event.key === "End") return days[days.length - 1].focus();
    // Days that were not run are passed over.
    const wanted = new Date(days[at].dataset.date);
    wanted.setUTCDate(wanted.getUTCDate() + steps[event.key]);
    const date = wanted.toISOString().slice(0, 10);
    const found = steps[event.key] > 0
      ? days.find((day) => day.dataset.date >= date)
      : days.findLast((day) => day.dataset.date <= date);
    found?.focus();
  });
}

// Which section is being read.
const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const reading = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("main > section[id]").forEach((section) => reading.observe(section));
