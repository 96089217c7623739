"use strict";
for (const figure of document.querySelectorAll(".viewport")) {
  const caption = figure.querySelector("figcaption").textContent.trim();
  const button = document.createElement("button");
  const show = (open) => {
    figure.classList.toggle("zoomed", open);
    button.textContent = open ? "×" : "+";
    button.setAttribute("aria-label", `${open ? "Close" : "Enlarge"}: ${caption}`);
    button.setAttribute("aria-expanded", String(open));
  };
  const toggle = () => {
    show(!figure.classList.contains("zoomed"));
    button.focus();
  };
  button.type = "button";
  button.className = "zoom";
  show(false);
  figure.append(button);
  button.addEventListener("click", toggle);
  figure.querySelector("svg").addEventListener("click", toggle);
  figure.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(false);
  });
  figure.addEventListener("focusout", () => show(false));
}
