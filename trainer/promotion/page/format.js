// Numbers, times and names as text.

/** At most `digits` decimals, and a dash if unknown. */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return value.toFixed(digits);
}

export function signed(value, digits = 3) {
  return value === null || value === undefined ? "–" : (value < 0 ? "−" : "+") + number(Math.abs(value), digits);
}

/** Empty if both ends are unknown. */
export function interval(low, high, write = number) {
  return low === null && high === null ? "" : `[${write(low)}, ${write(high)}]`;
}

export function percent(share) {
  return `${+(share * 100).toFixed(1)} %`;
}

/** A duration in one or two units. */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 && minutes < 10 ? `${minutes} min ${seconds % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} days`;
}

export function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

export function day(date) {
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** The time of day, with the date if it is not today. */
export function moment(date, now) {
  return date.toDateString() === now.toDateString() ? clock(date) : `${day(date)} ${clock(date).slice(0, 5)}`;
}

/** The name of a metric. */
export function metric(name) {
  const names = { latency_ms: "latency", fallback: "fallbacks", unparsable: "unparsable", length: "length", drift: "drift from base answer" };
  return names[name] ?? name.replaceAll("_", " ");
}
