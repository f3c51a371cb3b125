"""Write docs/steps.md from the steps that there are: python scripts/document_steps.py."""

from pathlib import Path

from yoloquant.recipe.documents import step_table

if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "steps.md").write_text(step_table(), encoding="utf-8")
