// A masked result, seen here: the one file of a job that a page may show.

import { byId, element } from "./elements.js";

const dialog = byId("preview");

export function show({ href, name, content_type: type, width, height }) {
  const [kind] = type.split("/");
  const medium = kind === "video" ?
    element("video", { src: href, controls: true, "aria-label": `${name}, masked`, width, height }) :
    element("img", { src: href, alt: `${name}, masked`, width, height });
  medium.addEventListener("error", () => {
    byId("preview-stage").replaceChildren(element("p", { class: "fault", role: "alert" },
      "This browser cannot show it, or it has expired. Download it instead."));
  });
  byId("preview-name").textContent = name;
  byId("preview-stage").replaceChildren(medium);
  dialog.showModal();
}

dialog.addEventListener("close", () => byId("preview-stage").replaceChildren()); // ends the download of a film
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
