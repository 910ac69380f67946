// Texts that outlive the page: in localStorage for good, in sessionStorage as long as the tab. Where
// the browser's storage is switched off, or full, they live as long as the page.

export function recall(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

/** null forgets it. */
export function keep(storage, name, text) {
  try {
    if (text === null) window[storage].removeItem(name);
    else window[storage].setItem(name, text);
  } catch {
    // see above
  }
}
