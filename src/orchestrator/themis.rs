//! ThemisDB's maintenance schedules: its JSON and its rules, over ours.
