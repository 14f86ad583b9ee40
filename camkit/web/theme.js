// Light or dark: the system's, or what the button says. Remembered where the browser allows it.

const ORDER = ["system", "light", "dark"];
const KEY = "camkit theme";
const button = document.getElementById("theme");

function remembered() {
  try {
    const found = localStorage.getItem(KEY);
    return ORDER.includes(found) ? found : "system";
  } catch {
    return "system"; // pages opened from disk may have no storage
  }
}

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
}

let theme = remembered();
apply(theme);
button.hidden = false;
button.addEventListener("click", () => {
  theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
  apply(theme);
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // it holds for this visit
  }
});
