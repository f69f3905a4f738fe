"use strict";
const byId = (id) => document.getElementById(id);
const [search, show, sort, count, main, help, theme] =
  ["search", "show", "sort", "count", "rollouts", "help", "theme"].map(byId);
const articles = [...document.querySelectorAll("article")];
const links = new Map([...document.querySelectorAll("nav li")].map((item) => [item.dataset.number, item]));
const list = document.querySelector("nav ol");
const number = (article, name) => Number(article.dataset[name]);
const orders = {
  number: (a, b) => number(a, "number") - number(b, "number"),
  tokens: (a, b) => number(b, "tokens") - number(a, "tokens"),
  lowest: (a, b) => number(a, "lowest") - number(b, "lowest"),
  redundancy: (a, b) => number(b, "redundancy") - number(a, "redundancy"),
  rise: (a, b) => number(b, "rise") - number(a, "rise"),
};
const tops = { longest: "tokens", negative: "lowest", redundant: "redundancy" };
const texts = new Map();
let visible = articles;
let current = null;

function textOf(article) {
  if (!texts.has(article)) {
    const parts = article.querySelectorAll(".text, .answer, .place");
    texts.set(article, [...parts].map((part) => part.textContent).join("\n").toLowerCase());
  }
  return texts.get(article);
}

function shown(article) {
  if (show.value === "all" || show.value in tops) return true;
  return show.value === "differ" ? article.dataset.differ === "true" : article.dataset.verdict === show.value;
}

function update() {
  const wanted = search.value.trim().toLowerCase();
  visible = articles.filter((article) => shown(article) && (!wanted || textOf(article).includes(wanted)));
  if (show.value in tops) visible = visible.sort(orders[tops[show.value]]).slice(0, 10);
  visible.sort(orders[sort.value]);
  const kept = new Set(visible);
  for (const article of articles) {
    article.hidden = !kept.has(article);
    links.get(article.dataset.number).hidden = article.hidden;
  }
  main.append(...visible);
  list.append(...visible.map((article) => links.get(article.dataset.number)));
  count.textContent = `${visible.length} of ${articles.length} rollouts`;
  byId("nothing").hidden = visible.length > 0;
  if (!kept.has(current)) mark(null);
}

function mark(article) {
  if (current) links.get(current.dataset.number).firstElementChild.removeAttribute("aria-current");
  current = article;
  if (!article) return;
  const link = links.get(article.dataset.number).firstElementChild;
  link.setAttribute("aria-current", "true");
  link.scrollIntoView({ block: "nearest" });
}

function inView(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

function go(element) {
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "start" });
}

function step(by) {
  if (!visible.length) return;
  let at = current && inView(current) ? visible.indexOf(current) : visible.findIndex(inView) - (by > 0 ? 1 : 0);
  at = Math.min(visible.length - 1, Math.max(0, at + by));
  go(visible[at]);
}

function stepEpisode(by) {
  const from = document.activeElement.closest(".episode");
  const start = current && !current.hidden ? current : visible[0];
  if (!from) {
    const first = start && start.querySelector(".episode");
    if (first) focusEpisode(first);
    return;
  }
  const episodes = visible.flatMap((article) => [...article.querySelectorAll(".episode")]);
  const next = episodes[episodes.indexOf(from) + by];
  if (next) focusEpisode(next);
}

function focusEpisode(episode) {
  episode.focus({ preventScroll: true });
  episode.scrollIntoView({ block: "center" });
}

function isDark() {
  const chosen = document.documentElement.style.colorScheme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function paintTheme() {
  theme.setAttribute("aria-pressed", String(isDark()));
}

function toggleTheme() {
  document.documentElement.style.colorScheme = isDark() ? "light" : "dark";
  paintTheme();
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  n: () => stepEpisode(1),
  p: () => stepEpisode(-1),
  t: toggleTheme,
  "/": () => search.focus(),
  "?": () => (help.open ? help.close() : help.showModal()),
};

document.addEventListener("keydown", (event) => {
  if (event.target === search && event.key === "Escape") {
    search.value = "";
    update();
    search.blur();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  if (help.open && event.key !== "?") return;
  if (event.key in keys) {
    event.preventDefault();
    keys[event.key]();
  }
});
document.addEventListener("focusin", (event) => {
  const article = event.target.closest("article");
  if (article && article !== current) mark(article);
});
main.addEventListener("click", (event) => {
  const side = event.target.closest("rect")?.closest("section, article");
  if (side) focusEpisode(side.querySelectorAll(".episode")[Number(event.target.closest("rect").dataset.episode)]);
});
list.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  go(document.querySelector(link.hash));
});
document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());
search.addEventListener("input", update);
show.addEventListener("change", () => {
  if (show.value in tops) sort.value = tops[show.value];
  update();
});
sort.addEventListener("change", update);
theme.addEventListener("click", toggleTheme);
byId("keys").addEventListener("click", keys["?"]);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintTheme);
addEventListener("pageshow", update); // a browser may bring back what stood in the form
new ResizeObserver(([bar]) => document.documentElement.style.setProperty("--bar", `${bar.target.offsetHeight}px`)).observe(
  document.querySelector(".toolbar"),
);
paintTheme();
