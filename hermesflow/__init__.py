"""hermesflow closes the gap that gapbench measures: curate, pair, emphasise, Pair-DPO, and measure again."""
