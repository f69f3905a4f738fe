"""Grading of final answers, in processes of their own, with a time limit for each sample."""

from l2t_verl.grading.code import grade_code_score
from l2t_verl.grading.mathematics import grade_math, grade_math_score
from l2t_verl.grading.pool import Grader, GradeResult, Unparsable

__all__ = ["GradeResult", "Grader", "Unparsable", "grade_code_score", "grade_math", "grade_math_score"]
