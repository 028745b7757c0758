-- One line of numbers behind wrk's own: requests, seconds, p50, p95 and p99 in ms, errors of any kind.
function done(summary, latency, _)
  local failed = summary.errors
  local count = failed.connect + failed.read + failed.write + failed.status + failed.timeout
  io.write(string.format("numbers %d %.3f %.3f %.3f %.3f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000, count))
end
