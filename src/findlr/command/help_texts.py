"""What ``--help`` says of each command."""

ROOT = """Find a good learning rate, and show why it is good.

\b
Examples:
  findlr run train.py:setup             find a rate for a training of yours
  findlr doctor train.py:setup          prove that a search leaves nothing behind in it
  findlr demo                           find a rate on real data, and try it
  findlr show finding.json              print what finding.save() wrote
  findlr compare a.json b.json          several Findings, side by side
  findlr report a.json -o report.html   a page to look at, and to send

Exit codes: 0 fine, 1 no suggestion or no proof, 2 wrong usage or input, 3 the training's own code failed, 130 \
interrupted.
"""
RUN = """Find a rate for a training of yours.

TARGET is a function: train.py:setup, or package.module:setup. It takes nothing, and returns (model, optimizer, \
criterion, loader), or a dict of find_lr's arguments, or a Trainable. Code under if __name__ == "__main__" \
does not run. Options override what the function returns, and what a --config file says.

\b
Examples:
  findlr run train.py:setup
  findlr run train.py:setup --schedule one_cycle --total-steps 5000 --verify
  findlr run train.py:setup --verify --epochs 20 --checkpoint race.json
  findlr run --config findlr.yaml
  findlr run train.py:setup --verify --epochs 20 --workers 2
  findlr run my.train:setup -o run.json --plot run.png --report run.html
  findlr run train.py:setup --json | jq .suggestion.lr

Ctrl-C (or SIGTERM) prints what was measured so far; with --checkpoint the same command goes on from there.

Exit codes: 0 a suggestion, 1 none, 2 wrong usage or input, 3 the training's \
own code failed, 130 interrupted.
"""
DOCTOR = """Show what is installed; prove on a training of yours that a search leaves nothing behind.

Without TARGET it names versions, devices and extras. With it (see findlr run --help) it trains for a few steps, \
searches with the same options as findlr run, and trains on; and does the same without the search, in a fresh process. \
Weights, optimizer state, random states and losses must be the same, bit for bit. It names what differs, and says so \
if two trainings without a search differ already.

\b
Examples:
  findlr doctor
  findlr doctor train.py:setup
  findlr doctor --config findlr.yaml

Exit codes: 0 fine, 1 something differs, 2 wrong usage or input, 3 the training's own code failed, 130 interrupted.
"""
DEMO = """Find a rate for a small network on real data, and try it.

The rate is compared with 1/100, 1/10, 10 and 100 times itself, on held-out images.

\b
Examples:
  findlr demo                                  handwritten digits
  findlr demo -o results                       write into results/
  findlr demo --data mnist --data-dir mnist    one epoch of MNIST
"""
SHOW = """Print a Finding that was saved: the rate, why, and the curve.

\b
Example:
  findlr show findlr-demo/finding.json
"""
COMPARE = """Print saved Findings side by side, and draw their curves.

\b
Examples:
  findlr compare sgd.json adam.json
  findlr compare wd0.json wd1.json --label "no decay" --label "decay 0.1" -o decay.png
"""
REPORT = """Write saved Findings as one page that opens offline.

\b
Examples:
  findlr report run.json -o run.html
  findlr report sgd.json adam.json --label SGD --label Adam -o optimizers.html
"""
