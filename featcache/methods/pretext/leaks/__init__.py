"""The audit of pretext tasks: can an answer be told without motion?"""
