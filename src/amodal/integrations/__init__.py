"""Other tools that call this package: CVAT, Label Studio, MCP clients and transformers' pipelines.

Each module imports its tool when it is used. The dependencies are optional extras of the package.
"""
