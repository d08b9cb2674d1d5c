"""The generator behind `town`: scene (what a scene is), things, streets, weather, surfaces, render."""
