/** Numbers as they are printed, in the manner of the rest of the page. */

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A power of ten: 10⁻³. */
export function power(exponent) {
  if (exponent === 0) return "1";
  if (exponent === 1) return "10";
  const digits = String(Math.abs(exponent)).replace(/\d/g, (digit) => SUPERSCRIPTS[digit]);
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/** A number with few digits, with a power of ten where there would be many zeros. */
export function significant(value, digits = 2) {
  if (Number.isNaN(value)) return "—";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const shift = Number(exponent);
  if (shift >= -3 && shift < 5) return minus(value.toFixed(Math.max(0, digits - 1 - shift)));
  return `${minus(mantissa)}×${power(shift)}`;
}

/** A factor per layer, with the digits that matter when it is multiplied many times. */
export function factor(value) {
  return value >= 0.01 && value < 10 ? value.toFixed(3) : significant(value, 3);
}

/** The value at a height on a statistic's axis, printed. */
export function printed(height, logarithmic, digits = 2) {
  if (!logarithmic) return significant(height, digits);
  // beyond what numbers hold, a power is printed
  const beyond = Number.isFinite(height) && Math.abs(height) > 300;
  return beyond ? power(Math.round(height)) : significant(10 ** height, digits);
}

/** The value at a height. */
export function heightToValue(height, logarithmic) {
  return logarithmic ? 10 ** height : height;
}

/** Text with a true minus. */
export function minus(text) {
  return text.replace("-", "−");
}

/** A count with its noun. */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
