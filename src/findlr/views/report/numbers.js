"use strict";
// Numbers: how they come, how they are averaged, how they are written.

// Typed arrays come as base64 of their little-endian bytes.
function decoded(text, Kind) {
  return text === null ? null : new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

// findlr.analysis.smoothing.bias_corrected, step by step the same.
function biasCorrected(losses, beta) {
  const result = new Float64Array(losses.length);
  let average = 0;
  for (let i = 0; i < losses.length; i++) {
    average = beta * average + (1 - beta) * losses[i];
    result[i] = average / (1 - beta ** (i + 1));
  }
  return result;
}

// The index of the value nearest to x in a rising array.
function nearest(values, x) {
  let low = 0;
  let high = values.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - values[low - 1] < values[low] - x ? low - 1 : low;
}

// The height at x of the line through (xs, ys) from index start to end; NaN where there is no line.
function heightAt(xs, ys, start, end, x) {
  if (end <= start) return NaN;
  if (x <= xs[start]) return ys[start];
  if (x >= xs[end - 1]) return ys[end - 1];
  let right = nearest(xs, x);
  if (xs[right] < x || right === start) right += 1;
  const share = xs[right] > xs[right - 1] ? (x - xs[right - 1]) / (xs[right] - xs[right - 1]) : 0;
  return ys[right - 1] + share * (ys[right] - ys[right - 1]);
}

// A number as Python writes it, with four digits: as in 0.00047, 2.302 or 4.7e-05.
function brief(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "-infinite";
  const rounded = Number(value.toPrecision(digits));
  const size = Math.abs(rounded);
  if (size === 0 || (size >= 1e-4 && size < 1e6)) return String(rounded);
  const [mantissa, exponent] = rounded.toExponential().split("e");
  return `${mantissa}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}

// A learning rate as findlr.analysis.text.rate_text writes it: two digits.
function rateText(value) {
  return brief(value, 2);
}

// A tick of the axis of rates: a power of ten, or the rate between two of them.
function tickText(log10) {
  const power = Math.round(log10);
  if (Math.abs(log10 - power) > 1e-9) return brief(10 ** log10, 3);
  return `10${[...String(power)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)])).join("")}`;
}

// Round places for the ticks of an axis in decades: powers of ten, or 1, 2, 5 where few of those are seen.
function decadeTicks(low, high, most) {
  const span = high - low;
  const result = [];
  if (span >= 2) {
    const step = Math.ceil(span / most);
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) result.push(at);
    return result;
  }
  if (span >= 0.7) {
    for (let power = Math.floor(low); power <= high; power++) {
      for (const part of [1, 2, 5]) result.push(power + Math.log10(part));
    }
    return result.filter((at) => at >= low && at <= high);
  }
  const rough = (10 ** high - 10 ** low) / Math.max(most - 1, 2);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * unit).find((each) => each >= rough);
  for (let at = Math.ceil(10 ** low / step); at * step <= 10 ** high; at++) result.push(Math.log10(at * step));
  return result;
}
