"""How good the suggested rates are: tasks, ground truth from grids, regret."""
