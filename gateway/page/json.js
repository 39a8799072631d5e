// JSON whose numbers are not rounded. Inputs that are shown, approved or edited may have larger ones than a float holds.

/** Older browsers do not know how a number was written, and round it. */
const isExact = typeof JSON.rawJSON === "function";

/** The value of `text`, or throws a `SyntaxError`. A number that a float would round becomes what `JSON.stringify` writes as it was. */
export const parseJson = (text) => JSON.parse(text, isExact ? kept : undefined);

/** The value in the body of a response; null when there is none. */
export async function jsonOf(response) {
  try {
    return parseJson(await response.text());
  } catch {
    return null;
  }
}

function kept(_name, value, { source }) {
  if (typeof value !== "number" || String(value) === source || digits(String(value)) === digits(source)) return value;
  return JSON.rawJSON(source);
}

/** A decimal number in the form that all its spellings have in common. */
function digits(text) {
  const [, sign, whole, fraction = "", exponent = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text) ?? [];
  if (whole === undefined) return text;
  const all = `${whole}${fraction}`.replace(/^0+/, "");
  const significant = all.replace(/0+$/, "");
  if (significant === "") return `${sign}0`;
  return `${sign}${significant}e${BigInt(exponent) - BigInt(fraction.length) + BigInt(all.length - significant.length)}`;
}
