"""What notebooks use: chapters, figures, widgets."""
