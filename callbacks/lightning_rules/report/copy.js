
"use strict";
// The page can be read without this: it only adds buttons that copy, and opens what is folded before it is printed.
for (const text of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  const name = text.dataset.copy;
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${name}`);
  button.addEventListener("click", async () => {
    const status = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
      status.textContent = `${name} is copied.`;
    } catch {
      getSelection().selectAllChildren(text);
      status.textContent = `${name} is selected: copy it with your keyboard.`;
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  text.after(button);
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
