"""Reports: tables of runs with published numbers beside ours, and plots of them."""
