"""An MCP server over standard input and output, with the library fastmcp. One of its tools asks before it answers."""

from fastmcp import Context, FastMCP

server = FastMCP("sample")


@server.tool
async def greet(greeting: str, context: Context) -> str:
    """Greets someone, whom it asks for"""
    answer = await context.elicit("Whom?", response_type=str)
    return f"{greeting}, {answer.data}" if answer.action == "accept" else answer.action


@server.tool
def add(a: int, b: int) -> int:
    """Adds two numbers"""
    return a + b


server.run(show_banner=False)
