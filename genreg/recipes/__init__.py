"""How the models that come with the package were trained."""

from genreg.recipes.shipped import RECIPES, Data, Recipe, train

__all__ = ["RECIPES", "Data", "Recipe", "train"]
