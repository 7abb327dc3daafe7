"""hermesflow closes the gap that gapbench measures. This version holds no code yet; see CHANGELOG.md."""
