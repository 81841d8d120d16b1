#!/usr/bin/env bash
# Put another version of uPlot, from its npm package, into the report: scripts/refresh_uplot.sh 1.6.32
set -euo pipefail
version=${1:?give a version}
home=$(cd "$(dirname "$0")/../src/findlr/views/report/uplot" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
tar xzf "$(npm pack --silent "uplot@$version")"
cp package/dist/uPlot.iife.min.js package/dist/uPlot.min.css package/LICENSE "$home"
echo "uPlot $version, as in its npm package; refreshed by scripts/refresh_uplot.sh" >"$home/NOTICE"
