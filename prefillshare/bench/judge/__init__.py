"""A judge with its own cache and on a shared one: is it consistent?"""
